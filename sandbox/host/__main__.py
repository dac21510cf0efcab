"""Run a Functions app on this machine: python -m sandbox.host --app DIR --settings FILE."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import uvicorn
from azure.storage.queue.aio import QueueServiceClient

from sandbox.host import config
from sandbox.host.declared import HostError
from sandbox.host.queues import QueueListener
from sandbox.host.timers import TimerListener
from sandbox.host.web import Endpoint, Web, endpoint
from sandbox.host.worker import Worker, select

log = logging.getLogger("sandbox.host")

CANNOT_RUN = 2


class Server(uvicorn.Server):
    """A server that leaves signals to the host and says when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.host", description=__doc__)
    parser.add_argument("--app", type=Path, required=True, help="folder with function_app.py and host.json")
    parser.add_argument("--settings", type=Path, required=True, help="file shaped like local.settings.json")
    parser.add_argument("--port", type=int, default=0, help="loopback port; without it a free one")
    parser.add_argument("--functions", help="names of the functions to run, with commas; without it all")
    parser.add_argument("--state", type=Path, help="folder that keeps when timers last ran; without it a temporary one")
    return parser.parse_args()


async def run(options: argparse.Namespace, state: Path, stdout: TextIO) -> bool:
    """Load the app and run it until a signal; True when nothing had to be cut short. Raises HostError."""
    app = options.app.resolve()
    config.load_settings(options.settings.resolve())
    host = config.load_host_options(app, os.environ)
    own = config.load_sandbox_options(os.environ)
    zone = config.time_zone(os.environ)
    listening = listen(options.port)
    os.chdir(app)  # as in Azure, where the app's folder is the working directory

    worker = Worker(host.function_timeout)
    functions = await worker.load(app, os.environ)
    functions = select(functions, options.functions.split(",") if options.functions else None, os.environ)
    stopping = asyncio.Event()
    on_signals(stopping)

    async with contextlib.AsyncExitStack() as stack:
        services: dict[str, QueueServiceClient] = {}
        queues: list[QueueListener] = []
        timers: list[TimerListener] = []
        endpoints: list[Endpoint] = []
        for function in functions:
            match function.trigger["type"]:
                case "queueTrigger":
                    name = function.text("connection", "") or "AzureWebJobsStorage"
                    connection = config.storage_connection(name, os.environ, f"the function {function.name}")
                    if connection not in services:
                        services[connection] = await stack.enter_async_context(service(connection, name))
                    queue_options = host.extensions.queues
                    queues.append(QueueListener(function, services[connection], queue_options, own.queue_lease, worker))
                case "timerTrigger":
                    timers.append(TimerListener(function, zone, state, worker))
                case _:
                    endpoints.append(endpoint(function, host.extensions.http.route_prefix))

        homepage = os.environ.get("AzureWebJobsDisableHomepage", "").lower() != "true"  # noqa: SIM112 - Azure's name
        runnable = {timer.function.name: timer.run_once for timer in timers}
        web = Web(endpoints, runnable, own.function_key, worker, homepage=homepage)
        server = Server(
            uvicorn.Config(web.app(), log_config=None, access_log=False, lifespan="off", server_header=False)
        )
        serving = asyncio.create_task(server.serve([listening]))
        taking = [asyncio.create_task(queue.run(stopping)) for queue in queues]
        ticking = [asyncio.create_task(timer.run(stopping)) for timer in timers]
        await server.ready.wait()
        ready = {
            "event": "ready",
            "url": f"http://127.0.0.1:{listening.getsockname()[1]}",
            "functions": [function.name for function in functions],
        }
        if not os.environ.get("SANDBOX_FUNCTION_KEY"):
            ready["function_key"] = own.function_key
        print(json.dumps(ready), file=stdout, flush=True)

        asked = asyncio.create_task(stopping.wait())
        await asyncio.wait({asked, serving, *taking, *ticking}, return_when=asyncio.FIRST_COMPLETED)
        broken = [] if stopping.is_set() else [task for task in (serving, *taking, *ticking) if task.done()]
        log.info("stopping")
        stopping.set()
        server.should_exit = True
        if taking:
            await asyncio.wait(taking, timeout=own.shutdown_grace)
        clean = await worker.close(own.shutdown_grace)
        await asyncio.gather(serving, *ticking, return_exceptions=True)
        await asyncio.gather(*(queue.finish() for queue in queues))
        for task in broken:
            task.result()  # a fault of the host itself
    return clean


def service(connection: str, name: str) -> QueueServiceClient:
    """A client for a connection string; raises HostError that names the setting but not the secret in it."""
    try:
        # The SDK's own first retry comes after 15 s; a listener looks again by itself.
        return QueueServiceClient.from_connection_string(
            connection, initial_backoff=0.2, increment_base=2, retry_total=2
        )
    except ValueError as error:
        raise HostError(f"the setting {name} is no storage connection string") from error


def listen(port: int) -> socket.socket:
    """A socket bound to that loopback port, 0 being any; raises HostError when it is taken."""
    listening = socket.socket()
    if os.name != "nt":  # on Windows the option would let two programs share the port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        raise HostError(f"port {port} cannot be used: {error.strerror}; leave --port out for a free one") from error
    return listening


def on_signals(stopping: asyncio.Event) -> None:
    """Set `stopping` when the process is asked to end."""
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # the last is what Windows has
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: loop.call_soon_threadsafe(stopping.set))


def own_stdout() -> TextIO:
    """Take stdout for the ready line, and let all that the app prints go to stderr."""
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stdout


def main() -> None:
    options = arguments()
    stdout = own_stdout()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("azure", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        state = options.state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="functions-host-")))
        state = state.resolve()
        state.mkdir(parents=True, exist_ok=True)
        try:
            clean = asyncio.run(run(options, state, stdout))
        except HostError as error:
            log.error("%s", error)
            code = CANNOT_RUN
        else:
            code = 0
            if not clean:
                log.warning("some invocations did not end in time; they were cut short")
    sys.stderr.flush()
    # A function that is not async may still run in its thread, which would hold the process.
    os._exit(code)


if __name__ == "__main__":
    main()
