"""python -m sandbox.tenant --scenario FILE: serve a scenario's tenant on loopback until SIGTERM or Ctrl-C."""

import contextlib
import json
import logging
import random
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from sandbox.scenario import Scenario, ScenarioError
from sandbox.tenant.graph import Tenant
from sandbox.tenant.har import HarFile
from sandbox.tenant.server import build_app


def main(
    scenario: Annotated[Path, typer.Option(help="The scenario file.")],
    port: Annotated[int, typer.Option(help="The port on loopback; 0 takes a free one.")] = 0,
    speed: Annotated[float | None, typer.Option(help="Simulated time against real, instead of the file's.")] = None,
    har: Annotated[Path | None, typer.Option(help="Record the Graph traffic here, as HAR 1.2.")] = None,
    token: Annotated[str, typer.Option(help="The bearer token that is accepted.")] = "sandbox",
    seed: Annotated[int, typer.Option(help="For all that is random.")] = 1,
    start: Annotated[
        float | None, typer.Option(help="When the scenario's time begins, in seconds since 1970; left out, now.")
    ] = None,
) -> None:
    """Serve a simulated Microsoft Graph; one JSON line on stdout says when and where it is ready."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        plan = Scenario.load(scenario, speed=speed)
        fleet = plan.fleet(seed, datetime.now(UTC) if start is None else datetime.fromtimestamp(start, UTC))
        groups = plan.directory(fleet)
    except ScenarioError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    tenant = Tenant(
        fleet, random.Random(seed), tenant_id=plan.tenant.id, roles=plan.tenant.roles, token=token, groups=groups
    )
    # asyncio turns Nagle's delay off only for sockets that name their protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        print(f"port {port} of 127.0.0.1 cannot be taken: {error.strerror}", file=sys.stderr)
        raise typer.Exit(2) from None
    with _recording(har) as recorder:
        app = build_app(tenant, har=recorder, speed=plan.speed)
        config = uvicorn.Config(
            app,
            http="h11",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
            timeout_keep_alive=75,  # httpx forgets idle connections after 5 s: to close them then would cut some calls
            timeout_graceful_shutdown=2,
        )
        _serve(uvicorn.Server(config), listener)


@contextlib.contextmanager
def _recording(path: Path | None) -> Iterator[HarFile | None]:
    if path is None:
        yield None
        return
    with HarFile(path) as har:
        yield har


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then return; whoever connects after the ready line is answered."""
    # uvicorn stops on these signals and then raises them again; here that must not end the process before its files.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: None)
    listener.listen(128)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps({"event": "ready", "url": url}), flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    typer.run(main)
