"""How the simulated devices behave in time, and what Intune shows of it under each quirk."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.tenant.devices import Activity, Behaviour, Day, Device, Failure, Fleet
from sandbox.tenant.quirks import Quirks
from sandbox.tenant.records import Blueprint, intune_record, make_records

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
RESET = {"keepEnrollmentData": True, "keepUserData": False}
WIPE = {"keepEnrollmentData": False, "keepUserData": False}
MINUTE = timedelta(minutes=1)
PLAIN = Quirks(action_done_at="end", primary_user_cleared="end", action_name="factoryReset")


def make(quirks: Quirks = PLAIN, *, user: str = "old@contoso.example", **behaviour: object) -> tuple[Fleet, Device]:
    plan = Blueprint(
        "test", "SN1", "LAB-1", 0, 0, "Book", "entra", "TAG", enrolled=True, autopilot=True, user=user, start=START
    )
    records = make_records(plan)
    assert records.managed_device is not None
    settings_ = Behaviour.model_validate({"first_check_in": "PT10M", **behaviour})
    intune = intune_record(records.managed_device, START - timedelta(hours=1))
    day = Day(START - timedelta(hours=9))
    device = Device("SN1", "LAB-1", settings_, records, intune, START, random.Random(1), day)
    return Fleet([device], quirks), device


def at(minutes: float) -> datetime:
    return START + minutes * MINUTE


def user_of(device: Device) -> str | None:
    return device.intune.user.name if device.intune and device.intune.user else None


def last_action(device: Device) -> str | None:
    return device.intune.actions[-1].state if device.intune and device.intune.actions else None


def test_a_wipe_waits_for_the_next_check_in_and_the_device_is_silent_until_it_is_back() -> None:
    fleet, device = make()
    fleet.wipe(device, RESET, START)
    fleet.advance(at(9))
    assert device.truth(at(9)).activity is Activity.AWAKE
    assert device.truth(at(9)).wipes_pending == 1
    fleet.advance(at(10))
    assert device.activity is Activity.RESETTING
    assert device.intune is not None
    assert device.intune.last_sync_at == at(10)
    fleet.advance(at(44))
    assert device.intune.last_sync_at == at(10)
    assert not device.truth(at(44)).truly_ready
    fleet.advance(at(45))
    assert device.intune.last_sync_at == at(45)
    truth = device.truth(at(45))
    assert (truth.truly_ready, truth.ready_since, truth.resets_taken) == (True, at(45), 1)


def test_after_a_reset_the_device_checks_in_as_a_new_enrolment_does() -> None:
    fleet, device = make(check_in_every="PT8H")
    fleet.wipe(device, RESET, START)
    syncs = []
    for minute in range(45, 400):
        fleet.advance(at(minute))
        assert device.intune is not None
        syncs.append(device.intune.last_sync_at)
    seen = sorted({(sync - at(40)) // MINUTE for sync in syncs})
    assert seen[:5] == [5, 8, 11, 14, 17]
    assert seen[5:8] == [32, 47, 62]


@pytest.mark.parametrize(
    ("when", "gone_at"), [("trigger", 0), ("pickup", 10), ("end", 40), ("late", 55)], ids=lambda value: str(value)
)
def test_the_primary_user_disappears_when_the_quirk_says(when: str, gone_at: int) -> None:
    fleet, device = make(PLAIN.model_copy(update={"primary_user_cleared": when, "late_after": 10 * MINUTE}))
    if gone_at:
        fleet.wipe(device, RESET, START)
        fleet.advance(at(gone_at) - timedelta(seconds=1))
        assert user_of(device) == "old@contoso.example"
        fleet.advance(at(gone_at))
    else:
        fleet.wipe(device, RESET, START)
    assert user_of(device) is None


@pytest.mark.parametrize(("when", "done_at"), [("pickup", 10), ("end", 40)])
def test_the_action_turns_done_when_the_quirk_says(when: str, done_at: int) -> None:
    fleet, device = make(PLAIN.model_copy(update={"action_done_at": when}))
    fleet.wipe(device, RESET, START)
    assert last_action(device) == "pending"
    fleet.advance(at(done_at) - timedelta(seconds=1))
    assert last_action(device) != "done"
    fleet.advance(at(done_at))
    assert last_action(device) == "done"


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        ("moves", ["wipePending", "wipeIssued", "managed"]),
        ("stuck", ["wipePending", "wipePending", "wipePending"]),
        ("never", ["managed", "managed", "managed"]),
    ],
)
def test_the_management_state_moves_as_the_quirk_says(kind: str, states: list[str]) -> None:
    fleet, device = make(PLAIN.model_copy(update={"management_state": kind}))
    fleet.wipe(device, RESET, START)
    seen = []
    for minute in (1, 11, 46):
        fleet.advance(at(minute))
        assert device.intune is not None
        seen.append(device.intune.management_state)
    assert seen == states


def test_action_results_stay_empty_under_the_quirk_though_the_device_is_reset() -> None:
    fleet, device = make(PLAIN.model_copy(update={"action_results": "always_empty"}))
    fleet.wipe(device, RESET, START)
    fleet.advance(at(60))
    assert device.intune is not None
    assert device.intune.actions == ()
    assert device.truth(at(60)).truly_ready


def test_a_second_wipe_runs_again_and_over_the_next_user() -> None:
    fleet, device = make(next_user="new@contoso.example", next_user_after="PT5M")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(51))
    assert user_of(device) == "new@contoso.example"
    assert device.truth(at(51)).next_user_since == at(50)
    fleet.wipe(device, RESET, at(51))
    assert not device.truth(at(51)).truly_ready
    fleet.advance(at(120))
    truth = device.truth(at(120))
    assert (truth.resets_taken, truth.next_users_lost, len(truth.wipes_received)) == (2, 1, 2)


def test_a_second_wipe_while_the_first_waits_runs_after_it() -> None:
    fleet, device = make()
    fleet.wipe(device, RESET, START)
    fleet.wipe(device, RESET, at(1))
    fleet.advance(at(46))
    assert device.truth(at(46)).resets_taken == 1
    assert device.activity is Activity.RESETTING
    fleet.advance(at(100))
    assert device.truth(at(100)).resets_taken == 2


def test_a_full_wipe_takes_the_intune_record_at_pick_up_and_a_new_enrolment_has_a_new_id() -> None:
    fleet, device = make(reenrols_after="PT20M")
    assert device.intune is not None
    old_id = device.intune.id
    fleet.wipe(device, WIPE, START)
    fleet.advance(at(10))
    assert device.intune is None
    assert device.records.autopilot_identity is not None
    fleet.advance(at(66))
    assert device.intune is not None
    assert device.intune.id != old_id
    assert device.intune.enrolled_at == at(60)
    assert fleet.find(device.intune.id) is device
    assert device.truth(at(66)).truly_ready


def test_a_wipe_without_flags_is_a_full_wipe() -> None:
    fleet, device = make()
    fleet.wipe(device, {}, START)
    fleet.advance(at(11))
    assert device.intune is None


def test_keeping_user_data_never_makes_a_device_ready() -> None:
    fleet, device = make()
    fleet.wipe(device, {"keepEnrollmentData": True, "keepUserData": True}, START)
    fleet.advance(at(90))
    truth = device.truth(at(90))
    assert (truth.resets_taken, truth.truly_ready, truth.user) == (1, False, "old@contoso.example")


def test_winre_disabled_fails_at_pick_up_and_goes_on_with_the_old_user() -> None:
    fleet, device = make(Quirks(), failure="winre_disabled", check_in_every="PT1H")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(10))
    assert last_action(device) == "failed"
    assert device.intune is not None
    assert device.intune.management_state == "wipeFailed"
    fleet.advance(at(71))
    assert user_of(device) == "old@contoso.example"
    assert device.truth(at(71)).resets_taken == 0


def test_a_silent_failure_shows_done_and_is_never_truly_ready() -> None:
    fleet, device = make(PLAIN, failure="silent_failure", check_in_every="PT20M")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(31))
    assert last_action(device) == "done"
    assert device.intune is not None
    assert device.intune.last_sync_at == at(30)
    assert user_of(device) == "old@contoso.example"
    assert not device.truth(at(300)).truly_ready


def test_a_reset_that_fails_midway_returns_early_with_the_old_user() -> None:
    fleet, device = make(failure="reset_fails_midway")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(24))
    assert device.activity is Activity.RESETTING
    fleet.advance(at(27))
    assert device.intune is not None
    assert device.intune.last_sync_at == at(27)
    assert (last_action(device), user_of(device)) == ("failed", "old@contoso.example")
    assert device.truth(at(300)).resets_taken == 0


def test_an_interrupted_reset_shows_done_and_the_device_never_returns() -> None:
    fleet, device = make(failure="interrupted")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(2000))
    assert last_action(device) == "done"
    assert device.intune is not None
    assert device.intune.last_sync_at == at(10)
    assert not device.truth(at(2000)).truly_ready


def test_on_battery_the_device_checks_in_but_leaves_the_reset_alone() -> None:
    fleet, device = make(failure="power", on_battery_until="PT1H", check_in_every="PT15M")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(59))
    assert device.truth(at(59)).wipes_pending == 1
    assert device.intune is not None
    assert device.intune.last_sync_at == at(55)
    fleet.advance(at(70))
    assert device.activity is Activity.RESETTING


def test_a_device_that_waits_for_its_reset_does_not_put_a_cleared_user_back() -> None:
    fleet, device = make(Quirks(), failure="power", check_in_every="PT15M")
    fleet.wipe(device, RESET, START)
    fleet.advance(at(200))
    assert user_of(device) is None


def test_a_sync_request_brings_an_online_device_in_soon() -> None:
    fleet, device = make(first_check_in="PT6H")
    fleet.request_sync(device, START)
    fleet.advance(at(2))
    assert device.intune is not None
    assert START < device.intune.last_sync_at <= at(2)
    assert (device.intune.actions[-1].name, device.intune.actions[-1].state) == ("syncDevice", "done")


def test_a_device_that_hears_of_a_wipe_comes_for_it_by_itself_and_others_do_not() -> None:
    for reacts, came in ((True, Activity.RESETTING), (False, Activity.AWAKE)):
        fleet, device = make(first_check_in="PT4H", reacts_to_orders=reacts)
        fleet.wipe(device, RESET, START)
        fleet.advance(at(2))
        assert device.activity is came


def test_a_sync_request_to_a_device_that_is_off_is_lost() -> None:
    fleet, device = make(first_check_in="PT3H", off_from="PT0S", off_until="PT1H")
    fleet.request_sync(device, START)
    fleet.advance(at(179))
    assert device.intune is not None
    assert device.intune.last_sync_at < START


def test_a_device_that_missed_its_check_in_makes_it_up_when_back() -> None:
    fleet, device = make(first_check_in="PT3H", off_from="PT0S", off_until="PT5H")
    fleet.advance(at(299))
    assert device.intune is not None
    assert device.intune.last_sync_at < START
    fleet.advance(at(302))
    assert at(300) < device.intune.last_sync_at <= at(302)


def test_outside_its_online_hours_a_device_is_not_heard_of() -> None:
    fleet, device = make(online_hours=["PT8H", "PT17H"], first_check_in="PT10H", check_in_every="PT1H")
    assert device.online(at(0))
    assert not device.online(at(8 * 60))
    fleet.advance(at(22 * 60))
    assert device.intune is not None
    assert device.intune.last_sync_at < START
    fleet.advance(at(23 * 60 + 2))  # 08:02 on the next day
    assert at(23 * 60) < device.intune.last_sync_at <= at(23 * 60 + 2)


def test_switching_a_device_on_by_hand_makes_up_for_the_missed_check_in() -> None:
    fleet, device = make()
    fleet.switch(device, on=False, now=START)
    fleet.advance(at(60))
    fleet.switch(device, on=True, now=at(60))
    fleet.advance(at(62))
    assert device.intune is not None
    assert device.intune.last_sync_at == at(62)


def test_reads_in_the_past_show_the_state_before_a_write() -> None:
    fleet, device = make(Quirks())
    before = device.intune
    fleet.wipe(device, RESET, at(5))
    assert device.shown(at(5) - timedelta(seconds=1)) == before
    assert device.shown(at(5)) == device.intune


def test_the_fleet_refuses_a_clock_that_is_not_aware_utc() -> None:
    fleet, _ = make()
    with pytest.raises(ValueError, match="aware UTC"):
        fleet.advance(datetime(2026, 3, 2))  # noqa: DTZ001


def test_a_behaviour_that_would_never_let_time_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than nothing"):
        Behaviour.model_validate({"check_in_every": "PT0S"})


@settings(max_examples=60, deadline=None)
@given(
    failure=st.sampled_from(Failure),
    wipes=st.lists(st.integers(0, 400), max_size=3),
    syncs=st.lists(st.integers(0, 400), max_size=3),
    looks=st.lists(st.integers(0, 900), max_size=12),
    cleared=st.sampled_from(["trigger", "pickup", "end", "late"]),
    done=st.sampled_from(["pickup", "end"]),
)
def test_how_often_one_looks_changes_nothing(
    failure: Failure, wipes: list[int], syncs: list[int], looks: list[int], cleared: str, done: str
) -> None:
    quirks = Quirks.model_validate({"primary_user_cleared": cleared, "action_done_at": done})
    ends = []
    for extra in ([], looks):
        fleet, device = make(quirks, failure=failure.value, check_in_every="PT2H", next_user="new@contoso.example")
        steps = [(m, "wipe") for m in wipes] + [(m, "sync") for m in syncs] + [(m, "look") for m in extra]
        for minute, step in sorted(steps):
            fleet.advance(at(minute))
            if step == "wipe":
                fleet.wipe(device, RESET, at(minute))
            elif step == "sync":
                fleet.request_sync(device, at(minute))
        fleet.advance(at(1000))
        ends.append((device.truth(at(1000)), device.intune))
        assert device.resets_taken <= len(wipes)
    assert ends[0] == ends[1]
