"""Lab-turnover windows: what windows.toml may say, and the request that an opening makes."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from shared.domain.request import MAX_DEVICES
from shared.domain.timing import Occurrence
from shared.domain.windows import Window, Windows

LAB = {
    "name": "lab-3-evening",
    "cron": "0 18 * * 1-5",
    "timezone": "Europe/Berlin",
    "ready_by": "PT13H",
    "group_tag": "LAB-3",
}
OPENING = Occurrence(datetime(2026, 1, 15, 17, tzinfo=UTC), datetime(2026, 1, 15, 18, tzinfo=UTC))


def window(**changes: object) -> Window:
    return Window.model_validate(LAB | changes)


def test_an_opening_asks_for_every_device_of_the_group_tag() -> None:
    request = window().request(OPENING)
    assert [str(reference) for reference in request.references()] == ["groupTag:LAB-3"]
    assert request.ready_by == OPENING.opens + timedelta(hours=13)
    assert request.requester == "lab timetable"


def test_an_opening_may_name_its_devices_instead_and_ask_for_no_time() -> None:
    request = window(group_tag=None, ready_by=None, devices=[{"name": "LAB3-01"}, {"serialNumber": "0012"}]).request(
        OPENING
    )
    assert [str(reference) for reference in request.references()] == ["name:LAB3-01", "serialNumber:0012"]
    assert request.ready_by is None


def test_one_opening_is_one_request_however_often_it_is_opened() -> None:
    assert window().request(OPENING).id == window().request(OPENING).id == "window:lab-3-evening:20260115T1700Z"


def test_two_openings_are_two_requests_even_in_the_hour_that_comes_twice() -> None:
    first = Occurrence(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC))
    second = Occurrence(datetime(2026, 10, 25, 1, 30, tzinfo=UTC), datetime(2026, 10, 25, 2, tzinfo=UTC))
    assert window().request(first).id != window().request(second).id


def test_a_window_knows_its_time_zone() -> None:
    assert window().zone == ZoneInfo("Europe/Berlin")
    assert Window.model_validate({"name": "x", "cron": "0 1 * * *", "group_tag": "T"}).zone == ZoneInfo("UTC")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"timezone": "Europe/Atlantis"}, "no time zone of the IANA database"),
        ({"timezone": "../etc/passwd"}, "no time zone of the IANA database"),
        ({"cron": "every evening"}, "cron"),
        ({"cron": "0 25 * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"group_tag": None}, "either group_tag or devices"),
        ({"devices": [{"name": "LAB3-01"}]}, "either group_tag or devices"),
        ({"devices": [{"name": "A", "serialNumber": "B"}], "group_tag": None}, "exactly one"),
        ({"name": "lab 3"}, "name"),
        ({"open_for": "PT0S"}, "open_for"),
        ({"outcome_queue": "somewhere-else"}, "outcome_queue"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_window_that_cannot_work_is_refused_with_the_fault(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        window(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"group_tag": ""},
        {"group_tag": "x" * 201},
        {"requester": ""},
        {"requester": "x" * 201},
        {"outcome_queue": "reset-results-" + "x" * 60},
        {"group_tag": None, "devices": [{"name": f"LAB-{number}"} for number in range(MAX_DEVICES + 1)]},
    ],
    ids=["empty tag", "long tag", "empty requester", "long requester", "long queue name", "too many devices"],
)
def test_a_window_that_loads_can_also_be_opened(changes: dict[str, object]) -> None:
    """What is wrong with it is said when it is loaded; an opening that fails would keep the windows after it shut."""
    try:
        loaded = window(**changes)
    except ValidationError:
        return
    loaded.request(OPENING)


def test_no_windows_is_fine_and_two_of_one_name_are_not() -> None:
    assert Windows().window == ()
    assert len(Windows.model_validate({"window": [LAB, LAB | {"name": "other"}]}).window) == 2
    with pytest.raises(ValidationError, match="two windows are called lab-3-evening"):
        Windows.model_validate({"window": [LAB, LAB]})
