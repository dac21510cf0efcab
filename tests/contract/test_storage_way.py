"""How the app reaches its storage: by this machine's proxy where there is one, else by nothing but its settings."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError

from sandbox.azurite import Azurite
from shared import wiring
from shared.state.table import Change, ChangeKind

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def app(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The app's settings for Azurite, and no proxy."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("TURNAROUND_STORAGE", azurite.connection_string)
    monkeypatch.setenv("TURNAROUND_TENANT_ID", "lab")
    monkeypatch.setenv("TURNAROUND_TABLE", f"t{uuid.uuid4().hex}")
    for part in (wiring.settings, wiring.store, wiring.queues):
        part.cache_clear()
    yield
    for part in (wiring.settings, wiring.store, wiring.queues):
        part.cache_clear()


async def test_a_netrc_with_a_password_for_any_host_is_of_no_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n", "utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    store, queues = wiring.store(), wiring.queues()
    await store.table.commit([Change(ChangeKind.PUT, "key", {"n": 1})])
    assert await store.table.get("key") is not None
    await queues.send(f"q{uuid.uuid4().hex}", "a message")
    await queues.close()
    await store.table.client.close()  # type: ignore[attr-defined]  # it is an AzureTable


async def test_a_proxy_of_this_machine_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        store = wiring.store()
        with pytest.raises(HttpResponseError):
            await store.table.get("key")
        await store.table.client.close()  # type: ignore[attr-defined]  # it is an AzureTable
    assert [line.startswith(b"GET http://") for line in asked] == [True]
