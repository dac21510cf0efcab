"""Names as people write them in a policy find what they mean, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.patterns import folded, matching


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("LAB3-01", "lab3-01"),
        ("LAB3-01", " LAB3-01 "),
        ("LAB3-01", "lab?-*"),
        ("LAB3-01", "*"),
        ("a[1]", "A[1]"),
        ("a[1]b", "a[1]?"),
        ("straße", "STRASSE"),
        ("ＬＡＢ3", "lab3"),
    ],
)
def test_a_name_matches_an_entry_however_either_is_written(name: str, entry: str) -> None:
    assert matching(["other", name], frozenset({entry, "something else"})) == entry


@pytest.mark.parametrize(
    ("name", "entry"),
    [("LAB3-01", "LAB3"), ("LAB3-01", "AB3-0?"), ("a", "[a]"), ("a", "[!b]?"), ("", "*"), (None, "*")],
)
def test_a_name_matches_no_other_entry(name: str | None, entry: str) -> None:
    assert matching([name], frozenset({entry})) is None


@given(st.text(min_size=1), st.sets(st.text()))
def test_every_name_that_stands_in_a_list_is_found_there(name: str, others: set[str]) -> None:
    found = matching([name], frozenset({name, *others}))
    assert found is not None or not folded(name)


def test_of_several_entries_that_match_the_first_by_alphabet_is_given() -> None:
    assert matching(["lab3-01", "sn-1"], frozenset({"sn-1", "lab*", "LAB3-01", "lab3-01"})) == "LAB3-01"
