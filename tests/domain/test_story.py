"""What happened, in words, where nothing but one event or none is kept."""

import pytest

from shared.domain.reasons import Code, Reason
from shared.domain.reset import Event, EventKind
from shared.domain.story import Turnaround, ending, passage
from tests.domain.builders import DEVICE, NOON, received


@pytest.mark.parametrize("kind", [EventKind.HALTED, EventKind.APPROVAL_NEEDED, EventKind.POISONED])
def test_what_has_a_reason_that_says_it_all_says_it_once(kind: EventKind) -> None:
    reason = Reason(Code.HALTED, "By ops: drill.")
    with_reason = passage(Event(kind=kind, at=NOON, who="ops", reason=reason)).text
    assert with_reason == reason.sentence
    assert passage(Event(kind=kind, at=NOON, who="ops")).text


def test_a_turnaround_of_which_nothing_is_kept_has_no_ending() -> None:
    assert ending(Turnaround(request=received().request, device=DEVICE)) == ""
