"""Builds the real parts, once a process. The only place where settings meet the systems around the pipeline."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from shared import settings as config
from shared.settings import Settings

if TYPE_CHECKING:  # heavy: only the functions that need them load them
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.storage.queue.aio import QueueServiceClient

    from shared.domain.windows import Windows
    from shared.graph.endpoint import GraphEndpoint
    from shared.messages.queues import AzureQueues
    from shared.pipeline.parts import Parts
    from shared.pipeline.ports import Intune
    from shared.state.store import Store


@cache
def settings() -> Settings:
    """The settings, read once. Raises SettingsError."""
    return config.load()


@cache
def windows() -> "Windows":
    """The lab windows, read once. Raises SettingsError."""
    return config.load_windows(settings(), config.APP)


@cache
def parts() -> "Parts":
    """The parts of the engine's stages."""
    from shared.pipeline.parts import Parts

    return Parts(
        store=store(),
        queues=queues(),
        intune=intune,
        policy=settings().policy,
        clock=lambda: datetime.now(UTC),
        new_id=lambda: str(uuid.uuid4()),
        sleep=asyncio.sleep,
    )


@cache
def store() -> "Store":
    """The state table of this tenant."""
    from shared.state.store import Store
    from shared.state.table import AzureTable

    set_ = settings()
    if set_.storage_connection:
        table = AzureTable.open(
            set_.table, set_.tenant_id, connection=set_.storage_connection, use_env_settings=_proxied()
        )
    else:
        endpoint = set_.storage_identity.tableserviceuri or ""
        table = AzureTable.open_with_identity(
            set_.table,
            set_.tenant_id,
            endpoint=endpoint,
            credential=_storage_credential(endpoint),
            use_env_settings=_proxied(),
        )
    return Store(table)


@cache
def queues() -> "AzureQueues":
    """The storage account's queues."""
    from shared.messages.queues import AzureQueues

    return AzureQueues(_queue_service)


def _queue_service() -> "QueueServiceClient":
    from azure.storage.queue.aio import QueueServiceClient

    set_ = settings()
    if set_.storage_connection:
        return QueueServiceClient.from_connection_string(set_.storage_connection, use_env_settings=_proxied())
    endpoint = set_.storage_identity.queueserviceuri or ""
    return QueueServiceClient(endpoint, credential=_storage_credential(endpoint), use_env_settings=_proxied())


def _proxied() -> bool:
    """Whether this machine has proxies, asked once: aiohttp would ask before every call to storage, and read ~/.netrc
    twice, whose password for any host (`default`) makes each call fail."""
    from urllib.request import getproxies

    return any(kind != "no" for kind in getproxies())


def _storage_credential(address: str) -> "AsyncTokenCredential | None":
    """The app's identity; None where the address has a SAS in it, which the SDKs then use."""
    return None if "sig" in parse_qs(urlsplit(address).query) else _storage_identity()


@cache
def _storage_identity() -> "AsyncTokenCredential":
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    identity = settings().storage_identity
    if os.environ.get("IDENTITY_ENDPOINT"):
        return ManagedIdentityCredential(client_id=identity.clientid)
    return DefaultAzureCredential(exclude_managed_identity_credential=True)


def _graph_access() -> "tuple[GraphEndpoint, AsyncTokenCredential]":
    from shared.graph.credential import credential_for
    from shared.graph.endpoint import GraphEndpoint

    graph = settings().graph
    endpoint = GraphEndpoint.parse(graph.cloud)
    return endpoint, credential_for(
        endpoint, client_id=graph.client_id, static_token=graph.static_token, environment=os.environ
    )


@asynccontextmanager
async def reading_graph() -> "AsyncIterator[Intune]":
    """Microsoft Graph for a process that only reads: what it reads is not booked, since a booking is a write.

    Raises EndpointError or CredentialError where the settings allow no connection.
    """
    from shared.graph.gateway import GraphIntune

    endpoint, credential = _graph_access()
    async with credential, await GraphIntune.create(endpoint, credential) as graph:
        yield graph


_connected: "list[Intune]" = []


async def intune() -> "Intune":
    """Microsoft Graph, at the pace that all instances keep together.

    Raises EndpointError or CredentialError where the settings allow no connection.
    """
    if not _connected:
        from shared.domain.guardrails import Budget
        from shared.graph.gateway import GraphIntune
        from shared.pipeline.pace import Paced, await_turn

        connected = await GraphIntune.create(
            *_graph_access(), turn=lambda calls: await_turn(parts(), calls, Budget.READS)
        )
        if not _connected:
            _connected.append(Paced(connected, parts()))
    return _connected[0]
