"""What the store relies on of a table, held against the fake in memory and against Azurite through Azure's SDK."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sandbox.azurite import ACCOUNT_KEY
from sandbox.memory import MemoryTable
from shared.state.table import AzureTable, Change, ChangeKind, Conflict, Row, Scalar, Table

STALE = "W/\"datetime'2020-01-01T00%3A00%3A00.0000000Z'\""
"""An ETag that no row has."""


@pytest.fixture(params=["memory", "azurite"])
async def table(request: pytest.FixtureRequest) -> AsyncIterator[Table]:
    if request.param == "memory":
        yield MemoryTable()
        return
    connection = request.getfixturevalue("azurite").connection_string
    async with AzureTable.open(f"t{uuid.uuid4().hex}", "contoso.example", connection=connection) as azure:
        await azure.create()
        yield azure


@pytest.fixture
async def azure(request: pytest.FixtureRequest) -> AsyncIterator[AzureTable]:
    """A table that was not made."""
    connection = request.getfixturevalue("azurite").connection_string
    async with AzureTable.open(f"t{uuid.uuid4().hex}", "contoso.example", connection=connection) as azure:
        yield azure


def insert(key: str, **values: Scalar) -> Change:
    return Change(ChangeKind.INSERT, key, values)


def put(key: str, **values: Scalar) -> Change:
    return Change(ChangeKind.PUT, key, values)


def replace(key: str, etag: str | None, **values: Scalar) -> Change:
    return Change(ChangeKind.REPLACE, key, values, etag)


def delete(key: str, etag: str | None = None) -> Change:
    return Change(ChangeKind.DELETE, key, etag=etag)


async def existing(table: Table, key: str) -> Row:
    row = await table.get(key)
    assert row is not None
    return row


async def keys(table: Table, first: str = "", before: str = "~") -> list[str]:
    return [row.key async for row in table.scan(first, before)]


# --- reading


async def test_a_row_that_is_not_there_is_none(table: Table) -> None:
    assert await table.get("reset|1") is None


async def test_a_row_comes_back_as_it_was_written(table: Table) -> None:
    await table.commit([insert("reset|1", doc='{"a": "ü 🙂"}', state="held", n=-5, yes=True)])
    row = await existing(table, "reset|1")
    assert row.key == "reset|1"
    assert dict(row.values) == {"doc": '{"a": "ü 🙂"}', "state": "held", "n": -5, "yes": True}
    assert row.values["yes"] is True
    assert row.etag


async def test_bytes_come_back_as_bytes(table: Table) -> None:
    await table.commit([insert("part|1", body=bytes(range(256)), empty=b"")])
    row = await existing(table, "part|1")
    assert row.values == {"body": bytes(range(256)), "empty": b""}
    assert isinstance(row.values["body"], bytes)


async def test_a_time_comes_back_as_the_same_aware_time(table: Table) -> None:
    local = datetime(2026, 3, 29, 2, 30, 0, 123456, timezone(timedelta(hours=-7)))
    never = datetime(9999, 12, 31, tzinfo=UTC)
    await table.commit([insert("closed|1", at=local, never=never)])
    row = await existing(table, "closed|1")
    at = row.values["at"]
    assert isinstance(at, datetime)
    assert (at, at.utcoffset(), row.values["never"]) == (local, timedelta(0), never)


@pytest.mark.parametrize("key", ["request|lab:3@20261121T1800Z", "a|b|c", "event|request:me@contoso.example|t|000001"])
async def test_keys_may_hold_the_separators_that_ids_use(table: Table, key: str) -> None:
    await table.commit([insert(key, n=1)])
    assert (await existing(table, key)).key == key
    assert await keys(table, key, key + "~") == [key]


@pytest.mark.parametrize("value", ["it's", "a b @v0", "", "100% ' or 1 eq 1 or '"])
async def test_a_scan_takes_values_literally(table: Table, value: str) -> None:
    await table.commit([insert("a|1", state=value), insert("a|2", state="other")])
    assert [row.key async for row in table.scan("a|", "a|~", {"state": value})] == ["a|1"]


async def test_a_scan_gives_rows_from_first_up_to_before_in_order_of_key(table: Table) -> None:
    for key in ("due|3", "due|10", "due|1", "dua|9", "due|2", "duf|1"):
        await table.commit([insert(key)])
    assert await keys(table, "due|", "due|~") == ["due|1", "due|10", "due|2", "due|3"]
    assert await keys(table, "due|10", "due|3") == ["due|10", "due|2"], "the first is in, the last is not"


async def test_a_scan_gives_only_rows_whose_columns_are_all_as_asked(table: Table) -> None:
    await table.commit(
        [
            insert("r|1", state="held", request="a"),
            insert("r|2", state="held", request="b"),
            insert("r|3", state="cleared", request="a"),
            insert("r|4"),
        ]
    )
    found = [row.key async for row in table.scan("r|", "r|~", {"state": "held", "request": "a"})]
    assert found == ["r|1"]


async def test_a_limit_counts_the_rows_that_fit(table: Table) -> None:
    await table.commit([insert(f"r|{number}", state="held" if number % 2 else "cleared") for number in range(10)])
    found = [row.key async for row in table.scan("r|", "r|~", {"state": "held"}, 3)]
    assert found == ["r|1", "r|3", "r|5"]


async def test_a_scan_goes_on_beyond_one_page_of_a_thousand_rows(table: Table) -> None:
    expected = [f"r|{number:04}" for number in range(1, 2101)]
    for start in range(0, len(expected), 100):
        await table.commit([insert(key, odd=str(int(key[-1]) % 2)) for key in expected[start : start + 100]])
    assert await keys(table, "r|", "r|~") == expected
    assert [row.key async for row in table.scan("r|", "r|~", limit=1500)] == expected[:1500]
    odd = [row.key async for row in table.scan("r|", "r|~", {"odd": "1"})]
    assert odd == [key for key in expected if int(key[-1]) % 2]


async def test_rows_changed_while_a_scan_runs_do_not_upset_it(table: Table) -> None:
    await table.commit([insert(f"r|{number}") for number in range(5)])
    seen = []
    async for row in table.scan("r|", "r|~"):
        seen.append(row.key)
        await table.commit([delete(row.key)])
    assert seen == [f"r|{number}" for number in range(5)]
    assert await keys(table) == []


async def test_many_rows_are_read_at_once_and_missing_ones_left_out(table: Table) -> None:
    await table.commit([insert(f"r|{number}", n=number) for number in range(50)])
    found = await table.get_many([f"r|{number}" for number in range(25, 75)])
    assert {key: row.values["n"] for key, row in found.items()} == {f"r|{number}": number for number in range(25, 50)}


# --- writing


async def test_every_write_changes_the_etag(table: Table) -> None:
    seen = set()
    for _ in range(20):
        await table.commit([put("r|1", same="value")])
        seen.add((await existing(table, "r|1")).etag)
    assert len(seen) == 20


async def test_reading_does_not_change_the_etag(table: Table) -> None:
    await table.commit([insert("r|1")])
    row = await existing(table, "r|1")
    assert (await existing(table, "r|1")).etag == row.etag
    assert [found.etag async for found in table.scan("r|", "r|~")] == [row.etag]


async def test_a_row_is_inserted_only_once(table: Table) -> None:
    await table.commit([insert("r|1", n=1)])
    with pytest.raises(Conflict):
        await table.commit([insert("r|1", n=2)])
    assert (await existing(table, "r|1")).values == {"n": 1}


async def test_a_put_writes_whatever_there_is_and_drops_columns_it_does_not_name(table: Table) -> None:
    await table.commit([put("r|1", old=1)])
    await table.commit([put("r|1", new=2)])
    assert (await existing(table, "r|1")).values == {"new": 2}


async def test_a_replacement_needs_the_etag_that_the_row_has(table: Table) -> None:
    await table.commit([insert("r|1", old=1)])
    first = await existing(table, "r|1")
    await table.commit([replace("r|1", first.etag, new=2)])
    with pytest.raises(Conflict):
        await table.commit([replace("r|1", first.etag, new=3)])
    assert (await existing(table, "r|1")).values == {"new": 2}


async def test_a_missing_row_is_not_replaced(table: Table) -> None:
    with pytest.raises(Conflict):
        await table.commit([replace("r|1", STALE, n=1)])
    assert await table.get("r|1") is None


async def test_a_replacement_without_an_etag_is_refused(table: Table) -> None:
    await table.commit([insert("r|1", n=1)])
    with pytest.raises(ValueError):
        await table.commit([replace("r|1", None, n=2)])
    assert (await existing(table, "r|1")).values == {"n": 1}


async def test_a_row_is_deleted_with_or_without_its_etag(table: Table) -> None:
    await table.commit([insert("r|1"), insert("r|2")])
    await table.commit([delete("r|1"), delete("r|2", (await existing(table, "r|2")).etag)])
    assert await keys(table) == []


@pytest.mark.parametrize("etag", [None, STALE])
async def test_deleting_a_missing_row_is_a_conflict(table: Table, etag: str | None) -> None:
    with pytest.raises(Conflict):
        await table.commit([delete("r|1", etag)])


async def test_a_row_that_was_changed_since_is_not_deleted(table: Table) -> None:
    await table.commit([insert("r|1", n=1)])
    before = await existing(table, "r|1")
    await table.commit([put("r|1", n=2)])
    with pytest.raises(Conflict):
        await table.commit([delete("r|1", before.etag)])
    assert (await existing(table, "r|1")).values == {"n": 2}


async def test_a_conflict_in_the_middle_leaves_nothing_of_the_transaction(table: Table) -> None:
    await table.commit([insert("r|1", n=1), insert("r|2", n=1), insert("r|3", n=1)])
    middle = await existing(table, "r|2")
    await table.commit([put("r|2", n=2)])
    with pytest.raises(Conflict):
        await table.commit([put("r|1", n=9), delete("r|3"), replace("r|2", middle.etag, n=9), insert("r|4")])
    assert {row.key: row.values["n"] async for row in table.scan("", "~")} == {"r|1": 1, "r|2": 2, "r|3": 1}


async def test_a_transaction_may_delete_insert_replace_and_put_together(table: Table) -> None:
    await table.commit([insert("r|1", n=1), insert("r|2", n=1)])
    etag = (await existing(table, "r|2")).etag
    await table.commit([delete("r|1"), replace("r|2", etag, n=2), insert("r|3", n=3), put("r|4", n=4)])
    assert {row.key: row.values["n"] async for row in table.scan("", "~")} == {"r|2": 2, "r|3": 3, "r|4": 4}


async def test_no_changes_are_no_fault(table: Table) -> None:
    await table.commit([])


async def test_a_hundred_changes_are_one_transaction_and_one_more_is_refused(table: Table) -> None:
    await table.commit([insert(f"r|{number:03}") for number in range(100)])
    with pytest.raises(ValueError, match="101"):
        await table.commit([insert(f"s|{number:03}") for number in range(101)])
    assert len(await keys(table)) == 100


async def test_a_row_may_change_only_once_in_a_transaction(table: Table) -> None:
    await refused(table, put("r|1", n=1), put("r|1", n=2))


@pytest.mark.parametrize("character", ["/", "\\", "#", "?", "\n", "\x7f", "\x85"])
async def test_keys_with_characters_that_azure_forbids_are_refused(table: Table, character: str) -> None:
    await refused(table, put(f"r|{character}|1"))


async def test_a_key_holds_512_characters_and_no_more(table: Table) -> None:
    await table.commit([put("k" * 512)])
    await refused(table, put("l" * 513))


async def test_a_text_holds_32_ki_characters_and_no_more(table: Table) -> None:
    await table.commit([put("r|1", doc="x" * 32 * 1024), put("r|2", doc="🙂" * 16 * 1024)])
    await refused(table, put("r|3", doc="x" * (32 * 1024 + 1)))
    await refused(table, put("r|4", doc="🙂" * (16 * 1024 + 1)))
    assert await keys(table) == ["r|1", "r|2"]


async def test_bytes_hold_64_kibibytes_and_no_more(table: Table) -> None:
    await table.commit([put("r|1", body=b"x" * 64 * 1024)])
    await refused(table, put("r|2", body=b"x" * (64 * 1024 + 1)))


async def test_a_number_that_does_not_fit_32_bits_is_refused(table: Table) -> None:
    await table.commit([put("r|1", n=2**31 - 1)])
    await refused(table, put("r|2", n=2**31))


async def test_a_transaction_of_more_than_4_mebibytes_is_refused(table: Table) -> None:
    columns: dict[str, Scalar] = {f"c{number}": b"x" * 64 * 1024 for number in range(10)}
    await refused(table, *(put(f"r|{number}", **columns) for number in range(7)))


async def refused(table: Table, *changes: Change) -> None:
    """The changes are refused as a fault of ours: never as a conflict, which callers would try again for ever."""
    before = await keys(table)
    with pytest.raises(Exception) as caught:
        await table.commit(changes)
    assert not isinstance(caught.value, Conflict)
    assert await keys(table) == before


# --- together with others


async def test_of_commits_at_once_on_one_row_exactly_one_wins(table: Table) -> None:
    await table.commit([insert("budget|day", n=0)])
    row = await existing(table, "budget|day")

    async def one(number: int) -> int | None:
        try:
            await table.commit([replace("budget|day", row.etag, n=number), insert(f"reset|{number}")])
        except Conflict:
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(one, range(1, 9))) if number is not None]
    assert len(winners) == 1
    assert (await existing(table, "budget|day")).values == {"n": winners[0]}
    assert await keys(table, "reset|", "reset|~") == [f"reset|{winners[0]}"], "a loser leaves nothing behind"


async def test_of_inserts_at_once_exactly_one_wins(table: Table) -> None:
    answers = await asyncio.gather(*(table.commit([insert("r|1", n=n)]) for n in range(8)), return_exceptions=True)
    assert [type(answer) for answer in answers if answer is not None] == [Conflict] * 7


async def test_a_conflict_names_neither_the_key_of_the_account_nor_what_was_to_be_written(table: Table) -> None:
    await table.commit([insert("r|1", doc="old")])
    with pytest.raises(Conflict) as caught:
        await table.commit([insert("r|1", doc="jane@contoso.example")])
    said = str(caught.value) + repr(caught.value)
    for secret in (ACCOUNT_KEY, "SharedKey", "Signature", "sig=", "jane@contoso.example", "old"):
        assert secret not in said


# --- what Azure refuses and Azurite does not, or the other way round


async def test_memory_refuses_times_before_1601_and_times_without_a_zone() -> None:
    table = MemoryTable()
    await table.commit([put("r|1", at=datetime(1601, 1, 1, tzinfo=UTC))])
    await refused(table, put("r|2", at=datetime(1600, 12, 31, tzinfo=UTC)))
    await refused(table, put("r|3", at=datetime(2026, 1, 1)))  # noqa: DTZ001 - the fault


async def test_memory_refuses_an_entity_of_more_than_a_mebibyte() -> None:
    await refused(MemoryTable(), put("r|1", **{f"c{number}": b"x" * 64 * 1024 for number in range(16)}))


async def test_memory_refuses_columns_that_azure_would_not_keep() -> None:
    await refused(MemoryTable(), put("r|1", **{f"c{number}": 1 for number in range(253)}))
    await refused(MemoryTable(), put("r|1", **{"not-a-name": 1}))
    await refused(MemoryTable(), put("r|1", Timestamp="x"))


async def test_a_table_that_was_never_made_is_empty_and_the_first_commit_makes_it(azure: AzureTable) -> None:
    assert await azure.get("r|1") is None
    assert await keys(azure) == []
    await azure.commit([insert("r|1", n=1), insert("r|2", n=2)])
    assert await keys(azure) == ["r|1", "r|2"]


@pytest.mark.parametrize("change", [delete("r|1"), replace("r|1", STALE)])
async def test_in_a_table_that_was_never_made_there_is_nothing_to_change(azure: AzureTable, change: Change) -> None:
    with pytest.raises(Conflict):
        await azure.commit([change])
    assert await keys(azure) == []


async def test_making_a_table_twice_is_no_fault(azure: AzureTable) -> None:
    await azure.create()
    await azure.create()
    await azure.commit([insert("r|1")])
    assert await azure.get("r|1") is not None


async def test_partitions_of_one_table_do_not_see_each_other(azure: AzureTable) -> None:
    await azure.create()
    other = AzureTable(azure.client, "fabrikam.example")
    await azure.commit([insert("r|1")])
    assert await other.get("r|1") is None
    assert [row.key async for row in other.scan("", "~")] == []
    await other.commit([insert("r|1")])
