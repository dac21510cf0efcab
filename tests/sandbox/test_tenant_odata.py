"""The $filter parser: what it takes, what it refuses, and what a filter means."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.tenant.errors import GraphError
from sandbox.tenant.odata import matches, parse_filter, parse_query, skip_token

KNOWN = {
    "name": "String",
    "count": "Int64",
    "on": "Boolean",
    "at": "DateTimeOffset",
    "managementState": "managementState",
}
RECORD = {
    "name": "O'Neil-01",
    "count": 7,
    "on": True,
    "at": datetime(2026, 3, 2, 9, tzinfo=UTC),
    "managementState": "managed",
}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("name eq 'o''neil-01'", True),
        ("name ne 'O''Neil-01'", False),
        ("contains(name,'NEIL')", True),
        ("startswith(name,'neil')", False),
        ("endswith(name,'-01')", True),
        ("name in ('x','O''Neil-01')", True),
        ("name in ('x')", False),
        ("count gt 6 and count lt 8", True),
        ("count ge 8 or count le 6", False),
        ("on eq true", True),
        ("not (on eq true)", False),
        ("at gt 2026-03-02T08:59:59.9999999Z", True),
        ("at ge 2026-03-02T11:00:00+02:00", True),
        ("at lt 2026-03-02T09:00:00Z", False),
        ("managementState eq 'managed'", True),
        ("name eq null", False),
        ("on eq false or name eq 'x' or count eq 7", True),
        ("(on eq false or on eq true) and count eq 8", False),
        ("on eq true or on eq false and count eq 8", True),
    ],
)
def test_a_filter_means_what_odata_says(text: str, meant: bool) -> None:
    assert matches(parse_filter(text, KNOWN, "thing"), RECORD, KNOWN) is meant


@given(st.text(alphabet="name()',0189 eq gtandorin.Z:-T", max_size=40) | st.text(max_size=20))
@example("name eq 'a' and")
@example("((((")
def test_any_text_is_either_a_filter_or_a_400(text: str) -> None:
    try:
        matches(parse_filter(text, KNOWN, "thing"), RECORD, KNOWN)
    except GraphError as error:
        assert error.status == 400  # noqa: PT017  # either outcome is right; anything else is not


@given(st.text(max_size=30))
def test_a_quoted_value_survives_the_filter(value: str) -> None:
    quoted = value.replace("'", "''")
    condition = parse_filter(f"name eq '{quoted}'", KNOWN, "thing")
    assert matches(condition, {"name": value}, KNOWN)


@given(st.text(max_size=30))
def test_a_foreign_skip_token_is_refused_or_a_position(token: str) -> None:
    try:
        query = parse_query([("$skiptoken", token)], KNOWN, "thing", allowed=("$skiptoken",))
    except GraphError as error:
        assert error.status == 400  # noqa: PT017  # either outcome is right; anything else is not
    else:
        assert query.start >= 0


def test_a_skip_token_leads_back_to_its_position() -> None:
    assert parse_query([("$skiptoken", skip_token(42))], KNOWN, "thing", allowed=("$skiptoken",)).start == 42


def test_options_may_be_written_without_the_dollar_sign() -> None:
    query = parse_query([("select", "name"), ("TOP", "3")], KNOWN, "thing", allowed=("$select", "$top"))
    assert (query.select, query.top) == (("name",), 3)
