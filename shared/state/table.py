"""One partition of one Azure Table: rows, ETags and entity-group transactions.

Limits of an entity-group transaction: 100 entities of one partition, 4 MiB
(learn.microsoft.com/rest/api/storageservices/performing-entity-group-transactions).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:  # heavy: only processes that open a table pay for it
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.data.tables.aio import TableClient

MAX_CHANGES = 100
"""Entities in one transaction."""
AT_ONCE = 20
"""Rows that are read side by side."""

Scalar = str | bytes | int | bool | datetime


class Conflict(Exception):  # noqa: N818 - the field's own word for it
    """Somebody else changed a row first: nothing of the transaction was written. Read again and decide again."""


class ChangeKind(StrEnum):
    INSERT = "insert"
    """Only if there is no such row."""
    REPLACE = "replace"
    """Only if the row's ETag is still the one given."""
    PUT = "put"
    """Whatever there is."""
    DELETE = "delete"
    """Only if there is such a row and, where an ETag is given, only if it is still that one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row's part in a transaction."""

    kind: ChangeKind
    key: str
    values: Mapping[str, Scalar] = field(default_factory=dict)
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read."""

    key: str
    values: Mapping[str, Scalar]
    etag: str


class Table(Protocol):
    """What the store needs of a table. Keys are row keys; the partition is fixed."""

    async def get(self, key: str) -> Row | None:
        """The row with this key, or None."""
        ...

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        """Those of the rows that exist, by key; others may be written while they are read."""
        ...

    def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        """Rows with first <= key < before in order of key, whose columns equal `where`; at most `limit`."""
        ...

    async def commit(self, changes: Sequence[Change]) -> None:
        """All of the changes, or none: at most 100, each key once. Raises Conflict."""
        ...


@dataclass
class AzureTable:
    """A partition of an Azure Table (or of Azurite). Counts its calls, which is what storage charges for."""

    client: "TableClient"
    partition: str
    calls: int = 0

    @classmethod
    def open(cls, table: str, partition: str, *, connection: str, use_env_settings: bool = True) -> Self:
        """By connection string. `use_env_settings` lets the SDK ask the environment for a proxy."""
        from azure.data.tables.aio import TableClient

        client = TableClient.from_connection_string(connection, table, use_env_settings=use_env_settings)
        return cls(client, partition)

    @classmethod
    def open_with_identity(
        cls,
        table: str,
        partition: str,
        *,
        endpoint: str,
        credential: "AsyncTokenCredential | None",
        use_env_settings: bool = True,
    ) -> Self:
        """By identity, as in Azure; without one where the endpoint carries a SAS. See `open`."""
        from azure.data.tables.aio import TableClient

        client = TableClient(endpoint, table, credential=credential, use_env_settings=use_env_settings)
        return cls(client, partition)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def create(self) -> None:
        """Make the table where it is missing."""
        from azure.core.exceptions import ResourceExistsError

        try:
            await self.client.create_table()
        except ResourceExistsError:
            return

    async def get(self, key: str) -> Row | None:
        from azure.core.exceptions import ResourceNotFoundError

        self.calls += 1
        try:
            return _row(await self.client.get_entity(self.partition, key))
        except ResourceNotFoundError:
            return None

    async def get_many(self, keys: Sequence[str]) -> dict[str, Row]:
        return await each_of(self.get, keys)

    async def scan(
        self, first: str, before: str, where: Mapping[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        from azure.core.exceptions import ResourceNotFoundError

        self.calls += 1
        parameters = {"pk": self.partition, "first": first, "before": before}
        terms = ["PartitionKey eq @pk", "RowKey ge @first", "RowKey lt @before"]
        for number, (column, value) in enumerate((where or {}).items()):
            parameters[f"v{number}"] = value
            terms.append(f"{column} eq @v{number}")
        page = None if limit is None else min(limit, 1000)
        found = self.client.query_entities(" and ".join(terms), parameters=parameters, results_per_page=page)
        count = 0
        try:
            async for entity in found:
                yield _row(entity)
                count += 1
                if limit is not None and count >= limit:
                    return
        except ResourceNotFoundError:  # the table itself: the first commit makes it
            return

    async def commit(self, changes: Sequence[Change]) -> None:
        from azure.core.exceptions import HttpResponseError
        from azure.data.tables import TableTransactionError

        if not changes:
            return
        if len(changes) > MAX_CHANGES:
            raise ValueError(f"{len(changes)} changes do not fit one entity-group transaction of {MAX_CHANGES}")
        self.calls += 1
        try:
            await self.client.submit_transaction([_operation(self.partition, change) for change in changes])
        except (TableTransactionError, HttpResponseError) as error:
            code = getattr(error, "error_code", None)
            if code == "TableNotFound":  # a fresh emulator, or a developer's account
                await self.create()
                await self.commit(changes)
            elif code in _CONFLICTS:
                raise Conflict(str(error)) from error
            else:
                raise


_CONFLICTS = frozenset({"EntityAlreadyExists", "UpdateConditionNotSatisfied", "ResourceNotFound", "EntityNotFound"})


def _operation(partition: str, change: Change) -> tuple[str, dict[str, Scalar], dict[str, object]]:
    from azure.core import MatchConditions
    from azure.data.tables import UpdateMode

    entity: dict[str, Scalar] = {"PartitionKey": partition, "RowKey": change.key, **change.values}
    guarded: dict[str, object] = {"etag": change.etag, "match_condition": MatchConditions.IfNotModified}
    match change.kind:
        case ChangeKind.INSERT:
            return "create", entity, {}
        case ChangeKind.PUT:
            return "upsert", entity, {"mode": UpdateMode.REPLACE}
        case ChangeKind.REPLACE:
            return "update", entity, {"mode": UpdateMode.REPLACE, **guarded}
        case ChangeKind.DELETE:
            return "delete", entity, guarded if change.etag else {}


def _row(entity: Mapping[str, Scalar]) -> Row:
    values = {name: value for name, value in entity.items() if name not in ("PartitionKey", "RowKey")}
    # The SDK's entity carries the ETag beside its columns, untyped.
    etag: str = entity.metadata["etag"]  # type: ignore[attr-defined]
    return Row(str(entity["RowKey"]), values, etag)


async def each_of(get: Callable[[str], Awaitable[Row | None]], keys: Sequence[str]) -> dict[str, Row]:
    """Those of the rows that exist, by key, AT_ONCE of them at a time: Azure Tables has no call for several."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(key: str) -> Row | None:
        async with gate:
            return await get(key)

    return {row.key: row for row in await asyncio.gather(*map(one, keys)) if row is not None}
