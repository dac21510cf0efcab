"""What may not go yet, and what may not go at all: approval, a later time, waves, caps, the halt, Graph's own pace."""

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise, permutations
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.guardrails import (
    GRAIN,
    SPAN,
    WINDOW,
    Approval,
    Booked,
    Budget,
    Halt,
    Orders,
    Pace,
    Terms,
    WaveVerdict,
    anomaly,
    approval_fault,
    approved_until,
    beyond_unapproved,
    day_cap,
    day_of,
    device_limit,
    hold,
    hour_of,
    next_hour,
    pause,
    plan_digest,
    reserve,
    room,
    terms,
    tomorrow,
    unapproved_room,
    wave_of,
    wave_sizes,
    wave_verdict,
)
from shared.domain.ids import ManagedDeviceId, RequestId
from shared.domain.policy import Policy
from shared.domain.reasons import Code, Reason
from shared.domain.request import DeviceSelector, Part, ResetRequest
from shared.domain.states import IN_FLIGHT, NOTHING_SENT, State
from tests.domain.builders import NOON, POLICY, at, facts, managed

REQUESTER, APPROVER = "teacher@school.example", "Head@School.example"
HALT = Halt("ops@school.example", "fire drill", NOON)
DAY = 24 * 60
STRICT = POLICY.model_copy(update={"approvers": frozenset({"head@*", "teacher@school.example", "deputy[1]@*"})})
DIGEST = plan_digest(RequestId("REQ-1"), "header", [ManagedDeviceId("a"), ManagedDeviceId("b")])
NEEDED = Terms(DIGEST, 2, needs="It is large.")
APPROVED = replace(NEEDED, approval=Approval(APPROVER, "seen", NOON, DIGEST))


def policy(**fields: object) -> Policy:
    return Policy.model_validate(fields)


class Held(NamedTuple):
    """By which code a device is held, until when, and what is said of it."""

    code: Code | None
    until: datetime | None
    words: str = ""


def held(
    terms: Terms | None = None,
    *,
    wave: int = 0,
    not_before: datetime | None = None,
    halt: Halt | None = None,
    now: datetime = NOON,
    requester: str = REQUESTER,
    policy: Policy = STRICT,
) -> Held:
    found = hold(terms, requester, wave, not_before, halt, now, policy)
    return Held(found.reason.code, found.until, found.reason.sentence) if found else NOTHING


NOTHING = Held(None, None)


# --- what holds a device ------------------------------------------------------------------------------------------


def test_nothing_holds_a_device_that_may_go() -> None:
    assert held() == NOTHING
    assert held(not_before=NOON) == NOTHING
    assert held(Terms(DIGEST, 2)) == NOTHING


def test_a_later_time_holds_until_then() -> None:
    assert held(not_before=at(90))[:2] == (Code.NOT_YET, at(90))
    assert "2026-03-02 13:30 UTC" in held(not_before=at(90)).words


def test_a_later_time_in_another_time_zone_is_told_in_utc() -> None:
    assert "13:30 UTC" in held(not_before=at(90).astimezone(timezone(timedelta(hours=2)))).words


def test_s6_a_halt_holds_until_somebody_resumes_and_says_who_and_why() -> None:
    assert held(halt=HALT)[:2] == (Code.HALTED, None)
    assert "By ops@school.example: fire drill" in held(halt=HALT).words


def test_a_later_time_outlasts_a_halt() -> None:
    assert held(not_before=at(90), halt=HALT)[:2] == (Code.NOT_YET, at(90))


def test_a_wave_that_has_not_begun_holds_its_devices_and_says_which_it_is() -> None:
    waves = Terms(DIGEST, 25, waves=(5, 20))
    assert held(waves, wave=1) == NOTHING
    assert held(waves, wave=2)[:2] == (Code.WAITS_FOR_WAVE, None)
    assert "It is in wave 2 of 2." in held(waves, wave=2).words
    assert held(replace(waves, wave=2), wave=2) == NOTHING


def test_stopped_waves_hold_the_later_ones_for_a_person_and_let_what_is_under_way_go_on() -> None:
    stopped = Terms(DIGEST, 25, waves=(5, 20), stopped="Wave 1 of 2: 2 of 5 devices failed or need a person.")
    assert held(stopped, wave=1) == NOTHING
    assert held(stopped, wave=2)[:2] == (Code.WAVE_FAILED, None)
    assert "2 of 5 devices failed" in held(stopped, wave=2).words


def test_a_device_that_a_person_freed_waits_for_no_wave() -> None:
    assert held(Terms(DIGEST, 25, waves=(5, 20), stopped="Too many failed."), wave=0) == NOTHING


def test_s5_what_was_declined_ends_whatever_else_holds_it_and_says_who_declined_it() -> None:
    declined = replace(APPROVED, waves=(5, 20), declined="By head@school.example: exam week")
    assert held(declined)[:2] == (Code.APPROVAL_REFUSED, None)
    assert held(declined, wave=2, not_before=at(90), halt=HALT)[:2] == (Code.APPROVAL_REFUSED, None)
    assert "By head@school.example: exam week" in held(declined).words


def test_a_device_waits_for_its_wave_while_the_halt_lasts_so_that_resuming_does_not_start_it() -> None:
    assert held(Terms(DIGEST, 25, waves=(5, 20)), wave=2, halt=HALT)[:2] == (Code.WAITS_FOR_WAVE, None)


# --- approval by a second person ----------------------------------------------------------------------------------


def fault(
    approval: Approval | None = None, *, requester: str = REQUESTER, policy: Policy = STRICT, **of: str
) -> Code | None:
    """Why an approval is none."""
    given_by = replace(approval or Approval(APPROVER, "seen", NOON, DIGEST), **of)  # type: ignore[arg-type]  # fields of text
    found = approval_fault(given_by, requester, DIGEST, policy)
    return found.code if found else None


def test_a_named_approver_who_did_not_ask_and_names_this_very_digest_approves() -> None:
    assert fault() is None
    assert held(APPROVED) == NOTHING


FULL_WIDTH = {ord("!") + n: 0xFF01 + n for n in range(94)}
SPELLINGS: list[Callable[[str], str]] = [
    str.casefold,
    lambda name: "".join(one.upper() if one.isascii() else one for one in name),
    lambda name: f" \t{name}\n ",
    lambda name: f"\u3000{name}\u00a0",
    lambda name: name.translate(FULL_WIDTH),
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: unicodedata.normalize("NFKC", name),
    lambda name: unicodedata.normalize("NFKD", name),
]
SIGN_IN_NAMES = st.from_regex(r"[A-Za-z]{1,9}\.[A-Za-z]{1,9}@school\.example", fullmatch=True)
NAMES = st.text(min_size=1).filter(str.strip) | SIGN_IN_NAMES


@given(NAMES, st.lists(st.sampled_from(SPELLINGS), max_size=4), st.lists(st.sampled_from(SPELLINGS), max_size=4))
def test_s5_nobody_approves_their_own_request_however_either_name_is_spelt(
    name: str, asked: list[Callable[[str], str]], approved: list[Callable[[str], str]]
) -> None:
    everybody = policy(approvers=["*"])
    requester = by = name
    for spell in asked:
        requester = spell(requester)
    for spell in approved:
        by = spell(by)
    assert fault(by=by, requester=requester, policy=everybody) is Code.OWN_REQUEST


@pytest.mark.parametrize("by", [REQUESTER, " TEACHER@school.example\t", "ｔｅａｃｈｅｒ＠school.example"])
def test_nobody_approves_their_own_request_even_if_the_policy_names_them(by: str) -> None:
    assert fault(by=by) is Code.OWN_REQUEST
    assert fault(by=by, digest="0" * 64) is Code.OWN_REQUEST


@given(NAMES)
def test_an_approval_of_ones_own_lets_nothing_go_even_if_it_was_written_down(name: str) -> None:
    own = replace(APPROVED, approval=Approval(name.upper(), "me", NOON, DIGEST))
    assert held(own, requester=name.upper(), policy=policy(approvers=["*"]))[:2] == (Code.APPROVAL_NEEDED, None)


@pytest.mark.parametrize(
    "by", ["head@school.example", " HEAD@other.example ", "ｈｅａｄ@school.example", "DEPUTY[1]@x"]
)
def test_an_approver_is_known_by_any_spelling_of_the_name(by: str) -> None:
    assert fault(by=by) is None


@pytest.mark.parametrize(
    "by", ["mallory@school.example", "ahead@school.example", "head", "deputy1@x", "head\u200b@x", "*"]
)
def test_s5_whom_the_policy_does_not_name_cannot_approve(by: str) -> None:
    assert fault(by=by) is Code.NOT_AN_APPROVER


def test_s5_where_nobody_is_named_nobody_can_approve() -> None:
    assert fault(policy=policy()) is Code.NOT_AN_APPROVER


def test_s5_an_approval_of_something_else_approves_nothing() -> None:
    assert fault(digest="0" * 64) is Code.DIGEST_DIFFERS
    assert fault(digest="") is Code.DIGEST_DIFFERS
    assert fault(digest=DIGEST.upper()) is Code.DIGEST_DIFFERS
    assert held(replace(APPROVED, digest="0" * 64)).code is Code.APPROVAL_NEEDED


def test_an_approver_whom_the_policy_no_longer_names_lets_nothing_more_go() -> None:
    assert held(APPROVED, policy=policy(approvers=["deputy@*"]))[:2] == (Code.APPROVAL_NEEDED, None)
    assert "does not name this person" in held(APPROVED, policy=policy(approvers=["deputy@*"])).words


SOME_APPROVAL = st.none() | st.builds(
    Approval,
    st.sampled_from([REQUESTER, REQUESTER.upper(), APPROVER, "mallory@school.example"]),
    st.just("seen"),
    st.sampled_from([at(-4 * DAY), at(-1), NOON, at(5)]),
    st.sampled_from([DIGEST, "0" * 64, ""]),
)


@given(
    SOME_APPROVAL,
    st.none() | st.sampled_from([at(-9 * DAY), NOON, at(1), at(5 * DAY)]),
    st.sampled_from([None, HALT]),
    st.integers(0, 3),
    st.sampled_from([(), (5, 20)]),
    st.sampled_from(["", "Too many failed."]),
)
def test_s5_without_a_valid_approval_nothing_that_needs_one_goes_whatever_else_is_true(
    approval: Approval | None,
    not_before: datetime | None,
    halt: Halt | None,
    wave: int,
    waves: tuple[int, ...],
    stopped: str,
) -> None:
    subject = Terms(DIGEST, 25, "It is large.", approval, waves, stopped=stopped)
    valid = (
        approval is not None
        and approval.by == APPROVER
        and approval.digest == DIGEST
        and approval_is_in_time(approval, not_before)
    )
    code, until, _ = held(subject, wave=wave, not_before=not_before, halt=halt)
    assert (code is Code.APPROVAL_NEEDED) == (not valid)
    assert valid or until is None, "no time of its own ends it"


def approval_is_in_time(approval: Approval, not_before: datetime | None) -> bool:
    """With the default of three days, at noon."""
    start = approval.at if not_before is None or not_before < approval.at else not_before
    return timedelta(days=3) > NOON - start


def test_what_needs_no_approval_waits_for_none() -> None:
    assert held(replace(NEEDED, needs="")) == NOTHING


def test_what_needs_an_approval_says_why() -> None:
    assert "It is large." in held(NEEDED).words


def test_s5_an_approval_that_is_too_old_lets_nothing_go_to_the_second() -> None:
    ends = NOON + STRICT.approval_valid_for
    assert approved_until(Approval(APPROVER, "seen", NOON, DIGEST), None, STRICT) == ends
    assert held(APPROVED, now=ends - timedelta(seconds=1)) == NOTHING
    assert held(APPROVED, now=ends)[:2] == (Code.APPROVAL_NEEDED, None)
    assert "Its approval of 2026-03-02 12:00 UTC is too old." in held(APPROVED, now=ends).words


def test_an_approval_given_long_before_the_start_lasts_from_the_start() -> None:
    start = at(20 * DAY)
    ends = start + STRICT.approval_valid_for
    assert held(APPROVED, not_before=start, now=start) == NOTHING
    assert held(APPROVED, not_before=start, now=ends - timedelta(seconds=1)) == NOTHING
    assert held(APPROVED, not_before=start, now=ends)[:2] == (Code.APPROVAL_NEEDED, None)


def test_a_start_that_was_over_before_the_approval_does_not_shorten_it() -> None:
    assert (
        approved_until(Approval(APPROVER, "seen", NOON, DIGEST), at(-DAY), STRICT) == NOON + STRICT.approval_valid_for
    )


# --- what an approval is bound to ---------------------------------------------------------------------------------

REQUEST = ResetRequest.model_validate(
    {"requestId": "REQ-1", "requester": REQUESTER, "reason": "INC-1", "devices": [{"serialNumber": "SN-1"}]}
)
DEVICES = [ManagedDeviceId(f"1111-{number}") for number in range(4)]
OTHER_FIELDS: dict[str, object] = {
    "request_id": "REQ-2",
    "requester": "mallory@school.example",
    "reason": "INC-2",
    "not_before": at(60),
    "ready_by": at(600),
    "outcome_queue": "reset-results-desk",
}


def digest_of(request: ResetRequest = REQUEST, devices: list[ManagedDeviceId] = DEVICES) -> str:
    return plan_digest(request.id, request.header_digest, devices)


def test_every_field_of_a_request_is_thought_of_here() -> None:
    assert set(OTHER_FIELDS) == set(ResetRequest.model_fields) - {"devices", "part"}


@pytest.mark.parametrize("field", sorted(OTHER_FIELDS))
def test_s5_an_approval_is_not_of_a_request_of_which_any_field_is_different(field: str) -> None:
    assert digest_of(REQUEST.model_copy(update={field: OTHER_FIELDS[field]})) != digest_of()


@given(st.sets(st.sampled_from(DEVICES)), st.sets(st.sampled_from(DEVICES)))
def test_s5_an_approval_is_of_exactly_these_devices(one: set[ManagedDeviceId], other: set[ManagedDeviceId]) -> None:
    assert (digest_of(devices=list(one)) == digest_of(devices=list(other))) == (one == other)


def test_the_order_of_the_devices_and_the_way_they_are_named_do_not_matter() -> None:
    assert len({digest_of(devices=list(order)) for order in permutations(DEVICES)}) == 1
    named = REQUEST.model_copy(update={"devices": (DeviceSelector(name="LAB3-01"),)})
    assert digest_of(named) == digest_of()


def test_a_part_of_a_request_has_the_digest_of_the_whole() -> None:
    part = REQUEST.model_copy(update={"part": Part(number=1, of=2)})
    assert digest_of(part) == digest_of()


def test_what_is_put_together_cannot_be_taken_apart_elsewhere() -> None:
    one, other = [ManagedDeviceId("ab"), ManagedDeviceId("c")], [ManagedDeviceId("a"), ManagedDeviceId("bc")]
    assert digest_of(devices=one) != digest_of(devices=other)
    assert plan_digest(RequestId("REQ-1a"), "b", []) != plan_digest(RequestId("REQ-1"), "ab", [])


def fleet(size: int) -> list[ManagedDeviceId]:
    return [ManagedDeviceId(f"device-{number}") for number in range(size)]


def terms_of(size: int, policy: Policy = STRICT, names: str = "LAB3") -> Terms:
    devices = [facts(managed(id=device, name=names)) for device in fleet(size)]
    return terms(RequestId("REQ-1"), "header", devices, NOON, policy)


def test_the_terms_are_of_the_request_and_of_the_devices_that_it_would_reset() -> None:
    made = terms_of(3)
    assert (made.devices, made.digest) == (3, plan_digest(RequestId("REQ-1"), "header", fleet(3)))
    assert (made.approval, made.wave, made.stopped) == (None, 1, "")


@pytest.mark.parametrize(("size", "needed"), [(0, False), (1, False), (20, False), (21, True), (50, True)])
def test_a_request_for_more_devices_than_the_policy_says_needs_a_second_person(size: int, needed: bool) -> None:
    assert bool(terms_of(size).needs) is needed
    assert not needed or f"It would reset {size} devices; more than 20 need" in terms_of(size).needs


def test_a_policy_may_have_every_request_approved() -> None:
    assert terms_of(1, policy(approval_above=0)).needs
    assert not terms_of(0, policy(approval_above=0)).needs


def test_one_sensitive_device_is_enough_to_need_a_second_person() -> None:
    devices = [facts(managed(id=device, name=name)) for device, name in zip(fleet(2), ("LAB", "EXAM-1"), strict=True)]
    made = terms(RequestId("REQ-1"), "header", devices, NOON, policy(sensitive_devices=["exam-*"]))
    assert made.needs == "1 of its devices are sensitive by policy."
    assert not terms(RequestId("REQ-1"), "header", devices, NOON, policy(sensitive_devices=["exam-2"])).needs


def unapproved(number: int, now: datetime = NOON) -> Orders:
    """So many resets went without a second person today."""
    return Orders().plus(number, now, number)


@pytest.mark.parametrize(("went", "size", "needed"), [(0, 20, False), (80, 20, False), (81, 20, True), (300, 1, True)])
def test_s5_many_small_requests_a_day_need_a_second_person_as_a_large_one_does(
    went: int, size: int, needed: bool
) -> None:
    devices = [facts(managed(id=device)) for device in fleet(size)]
    made = terms(RequestId("REQ-1"), "header", devices, NOON, STRICT, unapproved(went))
    assert bool(made.needs) is needed
    assert not needed or "More than 100 resets a day need a second person" in made.needs
    assert not terms(RequestId("REQ-1"), "header", devices, at(DAY), STRICT, unapproved(went)).needs, "a new day"


def test_approved_resets_use_up_nothing_of_what_may_go_without_approval() -> None:
    orders = Orders().plus(400, NOON).plus(30, NOON, 30).plus(30, at(1), 10)
    assert unapproved_room(orders, NOON, POLICY) == 60
    assert (beyond_unapproved(60, orders, NOON, POLICY), bool(beyond_unapproved(61, orders, NOON, POLICY))) == (
        "",
        True,
    )


def test_a_limit_of_unapproved_resets_that_was_lowered_leaves_no_room_rather_than_less_than_none() -> None:
    assert unapproved_room(unapproved(300), NOON, POLICY) == 0
    assert not beyond_unapproved(0, unapproved(300), NOON, POLICY)


# --- waves --------------------------------------------------------------------------------------------------------

WAVE_POLICIES = st.builds(
    lambda above, first, growth: policy(wave_above=above, wave_first=first, wave_growth=growth),
    st.integers(1, 60),
    st.integers(1, 100),
    st.floats(1, 50) | st.sampled_from([1, 1.1, 1e300]),
)


@given(st.integers(0, 5000), WAVE_POLICIES)
def test_s7_the_waves_hold_all_devices_the_canary_first_and_none_is_smaller_but_the_last(
    devices: int, policy: Policy
) -> None:
    sizes = wave_sizes(devices, policy)
    if devices <= policy.wave_above:
        assert sizes == ()
        return
    assert sum(sizes) == devices
    assert sizes[0] == min(devices, policy.wave_first)
    assert all(size > 0 for size in sizes)
    assert all(earlier <= later for earlier, later in pairwise(sizes[:-1]))
    assert all(later <= earlier * policy.wave_growth + policy.wave_growth for earlier, later in pairwise(sizes))


def test_waves_grow_as_the_policy_says() -> None:
    assert wave_sizes(50, POLICY) == ()
    assert wave_sizes(51, POLICY) == (5, 20, 26)
    assert wave_sizes(500, POLICY) == (5, 20, 80, 320, 75)
    assert wave_sizes(12, policy(wave_above=1, wave_first=3, wave_growth=1)) == (3, 3, 3, 3)
    assert wave_sizes(12, policy(wave_above=1, wave_first=1, wave_growth=1.5)) == (1, 1, 2, 3, 5)
    assert wave_sizes(60, policy(wave_first=100)) == (60,)


@given(st.integers(0, 300), WAVE_POLICIES)
def test_every_device_is_in_one_wave_and_each_wave_has_its_size(devices: int, policy: Policy) -> None:
    sizes = wave_sizes(devices, policy)
    waves = [wave_of(number, sizes) for number in range(devices)]
    assert waves == sorted(waves)
    assert Counter(waves) == (dict(enumerate(sizes, start=1)) or ({0: devices} if devices else {}))


def test_without_waves_every_device_is_in_none() -> None:
    assert [wave_of(number, (2, 3)) for number in range(6)] == [1, 1, 2, 2, 2, 0]
    assert (wave_of(0, ()), wave_of(99, ())) == (0, 0)


def test_a_large_request_begins_with_its_first_wave_now_and_a_small_one_has_none() -> None:
    large, small = terms_of(60), terms_of(50)
    assert (large.waves, large.wave, large.wave_since) == ((5, 20, 35), 1, NOON)
    assert (small.waves, small.wave_since) == ((), None)


def verdict(wave: dict[State, int], minutes: float = 0, policy: Policy = POLICY) -> WaveVerdict:
    return wave_verdict(wave, NOON, at(minutes), policy)[0]


LATE = 12 * 60


@pytest.mark.parametrize(
    ("wave", "expected"),
    [
        ({State.READY: 5}, WaveVerdict.GO),
        ({State.READY: 4, State.RESETTING: 1}, WaveVerdict.GO),
        ({State.READY: 4, State.FAILED: 1}, WaveVerdict.GO),
        ({State.READY: 4, State.HELD: 1}, WaveVerdict.GO),
        ({State.READY: 3, State.FAILED: 1, State.RESETTING: 1}, WaveVerdict.WAIT),
        ({State.READY: 3, State.RESETTING: 2}, WaveVerdict.WAIT),
        ({State.TRIGGERED: 5}, WaveVerdict.WAIT),
        ({State.CLEARED: 5}, WaveVerdict.WAIT),
        ({State.READY: 3, State.FAILED: 2}, WaveVerdict.STOP),
        ({State.READY: 3, State.ATTENTION: 2}, WaveVerdict.STOP),
        ({State.READY: 3, State.ATTENTION: 1, State.FAILED: 1}, WaveVerdict.STOP),
        ({State.HELD: 3, State.FAILED: 2}, WaveVerdict.STOP),
        ({State.FAILED: 1}, WaveVerdict.STOP),
    ],
    ids=str,
)
def test_s7_the_next_wave_starts_at_four_fifths_ready_and_never_when_more_than_a_fifth_failed(
    wave: dict[State, int], expected: WaveVerdict
) -> None:
    assert verdict(wave) is expected


@pytest.mark.parametrize("gone", [State.REFUSED, State.CANCELLED])
def test_refused_and_withdrawn_devices_say_nothing_about_the_next_wave(gone: State) -> None:
    assert verdict({State.READY: 4, State.FAILED: 1, gone: 95}) is WaveVerdict.GO
    assert verdict({State.READY: 3, State.FAILED: 1, gone: 96}) is WaveVerdict.STOP
    assert verdict({State.TRIGGERED: 1, gone: 99}) is WaveVerdict.WAIT


@pytest.mark.parametrize("wave", [{}, {State.REFUSED: 5}, {State.CANCELLED: 2, State.REFUSED: 3}], ids=str)
def test_a_wave_of_which_nothing_is_left_holds_nobody_up(wave: dict[State, int]) -> None:
    assert verdict(wave) is WaveVerdict.GO


def test_s7_a_wave_that_is_not_ready_in_time_stops_the_rest_to_the_second() -> None:
    wave = {State.READY: 3, State.RESETTING: 2}
    assert verdict(wave, LATE - 1 / 60) is WaveVerdict.WAIT
    assert wave_verdict(wave, NOON, at(LATE), POLICY) == (WaveVerdict.STOP, "Only 3 of 5 devices became ready in time.")


@pytest.mark.parametrize("unsent", sorted(NOTHING_SENT))
def test_a_wave_does_not_run_out_of_time_while_one_of_its_devices_is_still_to_be_sent(unsent: State) -> None:
    assert verdict({State.READY: 3, State.RESETTING: 1, unsent: 1}, LATE) is WaveVerdict.WAIT
    assert verdict({State.READY: 3, State.RESETTING: 1, unsent: 0}, LATE) is WaveVerdict.STOP


def test_a_wave_that_is_ready_in_the_end_goes_on_however_long_it_took() -> None:
    assert verdict({State.READY: 4, State.RESETTING: 1}, LATE * 10) is WaveVerdict.GO


def test_the_shares_are_the_policys() -> None:
    lenient = policy(wave_ready_share=0.5, wave_failed_share=0.6)
    assert verdict({State.READY: 2, State.FAILED: 2}, policy=lenient) is WaveVerdict.GO
    strict = policy(wave_ready_share=1, wave_failed_share=0)
    assert verdict({State.READY: 99, State.RESETTING: 1}, policy=strict) is WaveVerdict.WAIT
    assert verdict({State.READY: 99, State.FAILED: 1}, policy=strict) is WaveVerdict.STOP
    assert verdict({State.READY: 99}, policy=strict) is WaveVerdict.GO


WAVES = st.dictionaries(st.sampled_from(State), st.integers(0, 40))


@given(WAVES, st.floats(0, 2 * LATE), st.floats(0.01, 1), st.floats(0, 0.99))
def test_a_next_wave_starts_only_on_enough_that_is_ready_and_a_stop_says_why(
    wave: dict[State, int], minutes: float, ready_share: float, failed_share: float
) -> None:
    shares = POLICY.model_copy(update={"wave_ready_share": ready_share, "wave_failed_share": failed_share})
    decided, why = wave_verdict(wave, NOON, at(minutes), shares)
    left = sum(count for state, count in wave.items() if state not in (State.REFUSED, State.CANCELLED))
    failed = wave.get(State.FAILED, 0) + wave.get(State.ATTENTION, 0)
    if decided is WaveVerdict.GO:
        assert wave.get(State.READY, 0) >= ready_share * left
        assert failed <= failed_share * left
    assert bool(why) == (decided is WaveVerdict.STOP)


@given(WAVES)
def test_a_wave_whose_devices_have_all_ended_is_not_waited_for_longer_than_the_policy_says(
    wave: dict[State, int],
) -> None:
    ended = {state: count for state, count in wave.items() if state not in IN_FLIGHT}
    assert verdict(ended, LATE) is not WaveVerdict.WAIT


# --- caps ---------------------------------------------------------------------------------------------------------


def ordered(hour: int = 0, day: int = 0, now: datetime = NOON, size: int | None = None) -> Orders:
    """So many resets ordered in this hour and on this day."""
    return Orders({hour_of(now): hour}, {day_of(now): day}, fleet=size, fleet_at=now)


UNSHARED = POLICY.model_copy(update={"fleet_share_per_day": 1.0})


def test_s4_an_hour_has_room_up_to_its_limit_and_the_rest_waits_for_the_next() -> None:
    left, full = room(ordered(190, 190), NOON, UNSHARED)
    assert (left, full.reason.code, full.until) == (10, Code.HOURLY_LIMIT, at(60))
    assert "It goes on at 2026-03-02 13:00 UTC." in full.reason.sentence
    assert room(ordered(200, 200), NOON, UNSHARED)[0] == 0
    assert room(ordered(200, 200), at(60), UNSHARED)[0] == 200


def test_s4_a_day_has_room_up_to_its_limit_and_the_rest_waits_for_the_next() -> None:
    left, full = room(ordered(0, 490), NOON, UNSHARED)
    assert (left, full.reason.code, full.until) == (10, Code.DAILY_LIMIT, at(12 * 60))
    assert room(ordered(0, 500), NOON, UNSHARED)[0] == 0
    assert room(ordered(0, 500), at(12 * 60), UNSHARED)[0] == 200


def test_where_hour_and_day_are_both_used_up_it_is_the_day_that_holds() -> None:
    _, full = room(ordered(200, 500), NOON, UNSHARED)
    assert (full.reason.code, full.until) == (Code.DAILY_LIMIT, at(12 * 60))
    _, full = room(ordered(250, 501), NOON, UNSHARED)
    assert full.reason.code is Code.DAILY_LIMIT, "however far either is above"
    assert room(ordered(190, 490), NOON, UNSHARED)[1].reason.code is Code.DAILY_LIMIT, "both have room for ten"


def test_more_than_a_limit_that_was_lowered_leaves_no_room_rather_than_less_than_none() -> None:
    assert room(ordered(300, 300), NOON, UNSHARED)[0] == 0
    assert room(ordered(0, 900), NOON, UNSHARED)[0] == 0


@pytest.mark.parametrize(
    ("size", "share", "limit", "code"),
    [
        (None, 0.25, 50, Code.FLEET_SHARE),
        (0, 0.25, 50, Code.FLEET_SHARE),
        (199, 0.25, 50, Code.FLEET_SHARE),
        (207, 0.25, 51, Code.FLEET_SHARE),
        (1996, 0.25, 499, Code.FLEET_SHARE),
        (2000, 0.25, 500, Code.DAILY_LIMIT),
        (100_000, 0.25, 500, Code.DAILY_LIMIT),
        (None, 1, 500, Code.DAILY_LIMIT),
        (10, 1, 500, Code.DAILY_LIMIT),
    ],
)
def test_s4_a_day_holds_the_share_of_the_fleet_at_least_the_floor_and_never_more_than_the_days_limit(
    size: int | None, share: float, limit: int, code: Code
) -> None:
    shared = POLICY.model_copy(update={"fleet_share_per_day": share})
    assert day_cap(Orders(fleet=size), shared) == (limit, code)
    left, full = room(ordered(0, limit - 7, size=size), NOON, shared)
    assert (left, full.reason.code, full.until) == (7, code, at(12 * 60))


def test_a_floor_above_the_days_limit_does_not_lift_it() -> None:
    assert day_cap(Orders(), policy(fleet_share_floor=900)) == (500, Code.DAILY_LIMIT)


def test_a_new_record_has_counted_nothing() -> None:
    assert (Orders().today(NOON), Orders().this_hour(NOON), Orders().past(NOON)) == (0, 0, [])


def test_what_is_ordered_counts_for_its_hour_and_its_day_and_keeps_the_fleets_size() -> None:
    counted = ordered(3, 30, size=1000).plus(20, at(30)).plus(1, at(60))
    assert (counted.this_hour(NOON), counted.this_hour(at(60)), counted.today(NOON)) == (23, 1, 51)
    assert (counted.fleet, counted.fleet_at) == (1000, NOON)


def test_s4_what_intune_did_not_take_is_counted_no_more_in_the_hour_and_day_of_its_order() -> None:
    counted = Orders().plus(20, NOON, 8).plus(5, at(60), 5).minus(3, NOON, 2)
    assert (counted.this_hour(NOON), counted.this_hour(at(60)), counted.today(NOON)) == (17, 5, 22)
    assert unapproved_room(counted, NOON, POLICY) == 100 - 11
    assert Orders().plus(20, NOON, 8).minus(20, NOON, 8).today(NOON) == 0


def test_s4_what_is_given_back_never_makes_more_room_than_there_was() -> None:
    assert Orders().plus(2, NOON, 1).minus(5, NOON, 5) == Orders().plus(0, NOON)
    forgotten = Orders().plus(2, at(-30 * DAY)).plus(1, NOON, 1)
    assert forgotten.minus(2, at(-30 * DAY), 2) == forgotten, "nothing is counted for that time any more"


def test_hours_and_days_are_of_utc_whatever_the_time_zone_of_the_clock() -> None:
    late = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)
    elsewhere = late.astimezone(timezone(timedelta(hours=2)))
    assert Orders().plus(5, elsewhere, 2) == Orders({"2026-03-02T23": 5}, {"2026-03-02": 5}, {"2026-03-02": 2})
    assert room(Orders().plus(5, late), elsewhere, UNSHARED) == room(Orders().plus(5, late), late, UNSHARED)
    assert next_hour(elsewhere) == tomorrow(elsewhere) == datetime(2026, 3, 3, tzinfo=UTC)


def test_what_is_kept_of_the_past_is_28_days_and_two_hours() -> None:
    counted = Orders()
    for day in range(40):
        for hour in range(24):
            counted = counted.plus(1, NOON + timedelta(days=day, hours=hour), 1)
    now = NOON + timedelta(days=39, hours=23)
    assert (len(counted.hours), len(counted.unapproved)) == (3, 29)
    assert sorted(counted.past(now), reverse=True) == [24] * 28
    assert counted.today(now) == 12


CAPPED = POLICY.model_copy(
    update={"resets_per_hour": 7, "resets_per_day": 19, "unapproved_per_day": 11, "fleet_share_per_day": 1.0}
)
AHEAD = [-9, -2, 0, 0, 1, 5]
"""Minutes by which the clock of an instance differs."""
STARTS = [NOON, datetime(2026, 3, 2, 12, 55, tzinfo=UTC), datetime(2026, 3, 2, 22, 50, tzinfo=UTC)]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(STARTS),
    st.lists(
        st.tuples(st.sampled_from([0, 0, 0.5, 1, 2, 7, 20, 45, 600]), st.sampled_from(AHEAD), st.integers(1, 20)),
        min_size=1,
        max_size=60,
    ),
)
def test_s4_no_hour_and_no_day_of_any_clock_ever_holds_more_than_its_limit_however_the_clocks_differ(
    now: datetime, sends: list[tuple[float, int, int]]
) -> None:
    """Several instances, whose clocks differ by minutes, each send what they find room for; one record counts."""
    orders = Orders()
    hours: Counter[str] = Counter()
    days: Counter[str] = Counter()
    unapproved_days: Counter[str] = Counter()
    for minutes, ahead, wanted in sends:
        now += timedelta(minutes=minutes)
        clock = now + timedelta(minutes=ahead)
        left, _ = room(orders, clock, CAPPED)
        sent = min(wanted, left)
        without = min(sent, unapproved_room(orders, clock, CAPPED))
        orders = orders.plus(sent, clock, without)
        unapproved_days[day_of(clock)] += without
        hours[hour_of(clock)] += sent
        days[day_of(clock)] += sent
        assert orders.this_hour(clock) == hours[hour_of(clock)], "nothing that counts is forgotten"
        assert orders.today(clock) == days[day_of(clock)]
        assert hours[hour_of(clock)] <= CAPPED.resets_per_hour
        assert days[day_of(clock)] <= CAPPED.resets_per_day
        assert unapproved_days[day_of(clock)] <= CAPPED.unapproved_per_day


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 59))
def test_there_is_room_again_at_the_time_that_is_named(hour: int, day: int, minute: int) -> None:
    counted = ordered(hour, day)
    left, full = room(counted, at(minute), CAPPED)
    assert full.until is not None
    assert full.until > at(minute)
    if left == 0:
        assert room(counted, full.until - timedelta(seconds=1), CAPPED)[0] == 0
        assert room(counted, full.until, CAPPED)[0] > 0


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - made aware
def test_tomorrow_is_the_next_utc_midnight_and_the_next_hour_the_next_full_one(now: datetime) -> None:
    day, hour = tomorrow(now), next_hour(now)
    assert timedelta(0) < day - now <= timedelta(days=1)
    assert (day.hour, day.minute, day.second, day.microsecond, day.tzinfo) == (0, 0, 0, 0, UTC)
    assert timedelta(0) < hour - now <= timedelta(hours=1)
    assert (hour.minute, hour.second, hour.microsecond, hour.tzinfo) == (0, 0, 0, UTC)
    assert day_of(day) > day_of(now)
    assert hour_of(hour) > hour_of(now)


def test_tomorrow_is_a_matter_of_utc_not_of_the_time_zone_in_which_it_is_asked() -> None:
    assert tomorrow(datetime(2026, 3, 2, 1, tzinfo=timezone(timedelta(hours=2)))) == datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(("earlier", "refused"), [(0, False), (2, False), (3, True), (9, True)])
def test_s4_a_device_that_was_reset_as_often_as_the_policy_allows_is_not_reset_again(
    earlier: int, refused: bool
) -> None:
    found = device_limit(earlier, POLICY)
    assert (found is not None) is refused
    assert found is None or found == Reason(Code.DEVICE_LIMIT, f"It was reset {earlier} times within 7 days.")


def test_a_window_of_less_than_a_day_is_told_as_such() -> None:
    found = device_limit(1, policy(resets_per_device=1, device_window="PT12H"))
    assert found is not None
    assert "within 0.5 days" in found.sentence


# --- the halt that throws itself ----------------------------------------------------------------------------------


def halted(
    ends: dict[State, int] | None = None,
    today: int = 0,
    past: tuple[int, ...] = (),
    resumed_at: datetime | None = None,
    policy: Policy = POLICY,
) -> bool:
    """Whether everything must stop."""
    days = {day_of(at(-DAY * number)): count for number, count in enumerate((today, *past))}
    return anomaly(ends or {}, Orders({}, days), resumed_at, NOON, policy) is not None


def test_a_quiet_hour_stops_nothing() -> None:
    assert not halted()
    assert not halted({State.READY: 200, State.FAILED: 20, State.REFUSED: 10}, today=300, past=(250, 100))


@pytest.mark.parametrize(
    ("ends", "stops"),
    [
        ({State.FAILED: 4}, False),
        ({State.FAILED: 5}, True),
        ({State.ATTENTION: 5}, True),
        ({State.FAILED: 2, State.ATTENTION: 3}, True),
        ({State.FAILED: 5, State.READY: 4}, True),
        ({State.FAILED: 5, State.READY: 5}, False),
        ({State.FAILED: 5, State.REFUSED: 100, State.CANCELLED: 100}, True),
    ],
    ids=str,
)
def test_s6_resets_that_fail_stop_everything_once_they_are_enough_and_more_than_half(
    ends: dict[State, int], stops: bool
) -> None:
    assert halted(ends) is stops


@pytest.mark.parametrize(("refused", "stops"), [(200, False), (201, True)])
def test_s6_more_refusals_than_usual_stop_everything(refused: int, stops: bool) -> None:
    assert halted({State.REFUSED: refused}) is stops


@pytest.mark.parametrize(
    ("today", "past", "stops"),
    [
        (300, (), False),
        (301, (), True),
        (301, (60,), True),
        (301, (61,), False),
        (500, (1, 100, 1), False),
        (501, (1, 100, 1), True),
    ],
)
def test_s6_a_day_far_above_the_most_of_the_days_before_stops_everything(
    today: int, past: tuple[int, ...], stops: bool
) -> None:
    assert halted(today=today, past=past) is stops


@pytest.mark.parametrize(
    ("ends", "today", "field"),
    [
        ({State.FAILED: 100}, 0, "halt_failed_min"),
        ({State.REFUSED: 1000}, 0, "halt_refused"),
        ({}, 10_000, "halt_burst_factor"),
    ],
)
def test_each_of_them_can_be_switched_off_by_a_zero(ends: dict[State, int], today: int, field: str) -> None:
    assert halted(ends, today)
    assert not halted(ends, today, policy=policy(**{field: 0}))


@pytest.mark.parametrize(("minutes", "stops"), [(-DAY, True), (-12 * 60 - 1, True), (-12 * 60, False), (-1, False)])
def test_whoever_resumes_accepts_a_days_burst_for_that_utc_day(minutes: float, stops: bool) -> None:
    assert halted(today=400, resumed_at=at(minutes)) is stops


def test_a_resume_just_after_midnight_is_known_to_an_instance_whose_clock_is_behind() -> None:
    assert not halted(today=400, resumed_at=at(12 * 60 + 1))


def test_a_resume_in_another_time_zone_is_of_its_utc_day() -> None:
    zone = timezone(timedelta(hours=14))
    assert not halted(today=400, resumed_at=at(-60).astimezone(zone))
    assert halted(today=400, resumed_at=at(-13 * 60).astimezone(zone))


def test_s6_a_resume_does_not_excuse_what_failed_since() -> None:
    assert halted({State.FAILED: 5}, resumed_at=at(-1))
    assert halted({State.REFUSED: 201}, resumed_at=at(-1))


def test_what_stopped_everything_is_said_in_numbers() -> None:
    orders = Orders({}, {day_of(NOON): 400, day_of(at(-DAY)): 3})
    said = [
        anomaly({State.FAILED: 5, State.ATTENTION: 1, State.READY: 2}, Orders(), None, NOON, POLICY),
        anomaly({State.REFUSED: 201}, Orders(), None, NOON, POLICY),
        anomaly({}, orders, None, NOON, POLICY),
    ]
    assert said == [
        "6 of 8 resets failed or need a person.",
        "201 devices were refused within an hour.",
        "400 resets today; the most of any of the 28 days before is 3.",
    ]


# --- the pace -----------------------------------------------------------------------------------------------------


def test_the_first_batch_goes_at_once() -> None:
    assert reserve(None, NOON, 20, Budget.WRITES, POLICY)[0] == NOON


def test_what_was_booked_long_ago_takes_nothing_from_now() -> None:
    old = Pace(at(-60), (Booked(at(-60), POLICY.writes_per_window),))
    assert reserve(old, NOON, 20, Budget.WRITES, POLICY) == reserve(None, NOON, 20, Budget.WRITES, POLICY)


def test_a_row_of_an_earlier_version_which_knew_only_until_when_is_taken_as_a_pause() -> None:
    assert reserve(Pace(at(5)), NOON, 20, Budget.WRITES, POLICY)[0] == at(5)


def test_whoever_books_first_starts_first_even_where_less_would_fit_in_before() -> None:
    _, pace = reserve(None, NOON, POLICY.writes_per_window, Budget.WRITES, POLICY)
    first, pace = reserve(pace, NOON, 20, Budget.WRITES, POLICY)
    second, _ = reserve(pace, NOON, 1, Budget.WRITES, POLICY)
    assert NOON < first < second


def test_more_than_the_limit_goes_alone_and_takes_as_long_as_so_many_calls_may_take() -> None:
    many = 3 * POLICY.reads_per_window
    start, pace = reserve(None, NOON, many, Budget.READS, POLICY)
    following, _ = reserve(pace, NOON, 1, Budget.READS, POLICY)
    assert start == NOON
    assert following >= NOON + 3 * WINDOW


def test_what_is_kept_of_bookings_stays_small() -> None:
    now, pace = NOON, None
    for _ in range(5000):
        now += timedelta(milliseconds=7)
        _, pace = reserve(pace, now, 1, Budget.READS, POLICY)
    assert pace is not None
    assert len(pace.booked) <= SPAN / GRAIN + 1


def test_a_long_queue_goes_at_the_rate_that_the_policy_allows() -> None:
    pace, start = None, NOON
    for _ in range(900):
        start, pace = reserve(pace, NOON, 20, Budget.WRITES, POLICY)
    windows = (start - NOON) / WINDOW + 1  # the last of them is full too
    assert 0.96 * POLICY.writes_per_window < 900 * 20 / windows <= POLICY.writes_per_window


@given(
    st.integers(20, 200),
    st.lists(st.tuples(st.integers(-3_000, 30_000), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_in_every_window_there_are_at_most_as_many_writes_as_the_policy_allows(
    writes_per_window: int, bookings: list[tuple[int, int]]
) -> None:
    """Several instances book on one row, their clocks a little apart; each sends all that it booked when it may."""
    policy = POLICY.model_copy(update={"writes_per_window": writes_per_window})
    now, pace = NOON, None
    sent: list[tuple[datetime, int]] = []
    for milliseconds, writes in bookings:
        now += timedelta(milliseconds=milliseconds)
        start, pace = reserve(pace, now, writes, Budget.WRITES, policy)
        assert start >= now
        sent.append((start, writes))
    for opens, _ in sent:
        assert sum(writes for start, writes in sent if opens <= start < opens + WINDOW) <= writes_per_window


@given(st.integers(1, 300), st.integers(1, 20), st.sampled_from(Budget))
def test_nothing_starts_before_a_pause_is_over(seconds: int, calls: int, budget: Budget) -> None:
    wait = timedelta(seconds=seconds)
    start, _ = reserve(pause(None, NOON, wait), NOON, calls, budget, POLICY)
    assert start >= NOON + wait


def test_reads_have_a_budget_of_their_own() -> None:
    policy = POLICY.model_copy(update={"reads_per_window": 100, "writes_per_window": 60})
    fits = {Budget.READS: 5, Budget.WRITES: 3}
    for budget, bookings in fits.items():
        pace, start = None, NOON
        for _ in range(bookings):
            start, pace = reserve(pace, NOON, 20, budget, policy)
        assert start < NOON + WINDOW
        assert reserve(pace, NOON, 20, budget, policy)[0] >= NOON + WINDOW


def test_reads_start_at_once_while_there_are_any_left_and_writes_go_evenly() -> None:
    for budget in Budget:
        _, pace = reserve(None, NOON, 20, budget, POLICY)
        start, _ = reserve(pace, NOON, 20, budget, POLICY)
        assert (start == NOON) is (budget is Budget.READS)


def test_the_default_pace_is_below_what_intune_allows() -> None:
    assert Policy().writes_per_window < 200
    most = Policy(reads_per_window=1500, writes_per_window=200)
    assert most.reads_per_window + 2 * most.writes_per_window < 2000  # before each order its device is read by itself
