"""docs/safety.md: every rule is numbered, names the tests that show it, and those tests are there, named after it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "safety.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
RULES = {int(re.match(r"S(\d+) ", section)[1]): section for section in SECTIONS}  # type: ignore[index]  # each has one


def names_in(path: str) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)


def test_the_rules_are_numbered_without_gap() -> None:
    assert list(RULES) == list(range(1, len(RULES) + 1))


@pytest.mark.parametrize("rule", sorted(RULES), ids=lambda rule: f"S{rule}")
def test_every_rule_names_tests_that_are_there_and_named_after_it(rule: int) -> None:
    _, _, shown = RULES[rule].partition("*Shown by:*")
    files = re.findall(r"`(tests/[\w/]+\.py)`", shown)
    assert files
    lacking = [path for path in files if not any(re.match(rf"test_s{rule}_", name) for name in names_in(path))]
    assert lacking == [], f"no test of S{rule} is named after it"


@pytest.mark.parametrize("part", ["*Against:*", "*How:*", "*Shown by:*"])
def test_every_rule_says_against_what_and_how(part: str) -> None:
    assert [rule for rule, section in RULES.items() if part not in section] == []


def test_no_test_is_named_after_a_rule_that_is_not_there() -> None:
    named = {
        int(found)
        for path in (ROOT / "tests").rglob("test_*.py")
        for found in re.findall(r"def test_s(\d+)_", path.read_text("utf-8"))
    }
    assert named <= set(RULES)
