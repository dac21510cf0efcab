"""Every reason has words for people: what happened, and what to do next."""

import pytest

from shared.domain.reasons import WORDS, Code, Reason


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_sentence_and_a_remedy(code: Code) -> None:
    words = WORDS[code]
    assert words.sentence.endswith(".")
    assert words.remedy.rstrip(")").endswith(".") or words.remedy.endswith(".)")


def test_no_words_are_left_over() -> None:
    assert set(WORDS) == set(Code)


@pytest.mark.parametrize("code", list(Code))
def test_a_code_is_made_for_machines(code: Code) -> None:
    assert code.value == code.name.lower()


def test_the_particulars_follow_the_sentence() -> None:
    reason = Reason(Code.NOT_WINDOWS, "Intune shows iOS.")
    assert reason.sentence == "The device does not run Windows. Intune shows iOS."
    assert Reason(Code.NOT_WINDOWS).sentence == "The device does not run Windows."
    assert reason.remedy == WORDS[Code.NOT_WINDOWS].remedy
