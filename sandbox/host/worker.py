"""The app in Microsoft's own Python worker runtime: loading it and calling its functions.

One app a process: the runtime keeps one registry.
"""

import asyncio
import json
import logging
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure_functions_runtime as runtime  # type: ignore[import-untyped]  # it ships no types

from sandbox.host import protos
from sandbox.host.declared import HostError, Json, resolve

log = logging.getLogger("sandbox.host")

TRIGGERS = ("queueTrigger", "timerTrigger", "httpTrigger")


@dataclass(frozen=True)
class Function:
    """A function of the app: its trigger's binding as the app wrote it, %SETTING% replaced."""

    name: str
    function_id: str
    trigger: Json

    def text(self, field: str, default: str | None = None) -> str:
        """A field of the trigger that must be a string; raises HostError by name when it is missing."""
        value = self.trigger.get(field, default)
        if not isinstance(value, str):
            raise HostError(f"the function {self.name}: its {self.trigger['type']} has no {field}")
        return value


@dataclass(frozen=True)
class Outcome:
    """How an invocation ended: `error` is None when it succeeded; `value` is what it returned."""

    error: str | None
    value: protos.TypedData | None = None


class Worker:
    """The loaded app."""

    def __init__(self, timeout: timedelta | None) -> None:
        self._timeout = timeout.total_seconds() if timeout else None
        self.running: set[asyncio.Task[Outcome]] = set()

    async def load(self, app: Path, environ: Mapping[str, str]) -> list[Function]:
        """Import and index the app, and give its functions in order of name; the folder goes first on sys.path.

        Raises HostError that names the function and what is wrong with it.
        """
        if not (app / "function_app.py").exists():
            raise HostError(f"{app} has no function_app.py: it is not an app of the Python v2 programming model")
        sys.path.insert(0, str(app))
        runtime.start_threadpool_executor()
        try:
            init = await runtime.worker_init_request(
                _request(worker_init_request=protos.Bag(capabilities={}, function_app_directory=str(app)))
            )
        except SystemExit as error:
            raise HostError(f"{app}: the app ended itself while it was loaded (exit code {error.code})") from error
        if init.result.status != protos.StatusResult.Success:
            log.error("%s", init.result.exception.stack_trace)
            raise HostError(f"{app} could not be loaded: {init.result.exception.message}")
        metadata = await runtime.functions_metadata_request(_request())
        if not metadata.function_metadata_results:
            raise HostError(f"{app}: function_app.py declares no functions")
        functions = [_function(entry, environ) for entry in metadata.function_metadata_results]
        return sorted(functions, key=lambda function: function.name)

    async def invoke(
        self, function: Function, data: protos.TypedData, metadata: Mapping[str, protos.TypedData] | None = None
    ) -> Outcome:
        """Run a function once, in a task of its own, and log how it ended; it never raises for what the app does.

        Raises CancelledError when the caller is cancelled; the invocation is cancelled with it.
        """
        task = asyncio.create_task(self._invoke(function, data, dict(metadata or {})), name=function.name)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return await task

    async def _invoke(
        self, function: Function, data: protos.TypedData, metadata: dict[str, protos.TypedData]
    ) -> Outcome:
        invocation_id = str(uuid.uuid4())
        runtime.invocation_id_cv.set(invocation_id)
        request = _request(
            invocation_request=protos.Bag(
                invocation_id=invocation_id,
                function_id=function.function_id,
                input_data=[protos.ParameterBinding(name=function.text("name"), data=data)],
                trigger_metadata=metadata,
                trace_context=protos.Bag(trace_parent="", trace_state="", attributes={}),
                retry_context=protos.Bag(retry_count=0, max_retry_count=0),
            )
        )
        started = time.perf_counter()
        error: str | None = "cancelled: the host is stopping"
        trace = ""
        value = None
        try:
            async with asyncio.timeout(self._timeout):
                response = await runtime.invocation_request(request)
            value, error = response.return_value, None
            if response.result.status != protos.StatusResult.Success:
                error, trace = response.result.exception.message, "\n" + response.result.exception.stack_trace
        except TimeoutError:
            # A function that is not async runs on in its thread; the real host would end the whole worker process.
            error = f"ran longer than functionTimeout ({self._timeout:g} s)"
        finally:
            milliseconds = (time.perf_counter() - started) * 1000
            level, result = (logging.INFO, "succeeded") if error is None else (logging.ERROR, f"failed: {error}{trace}")
            log.log(level, "%s %s %.0f ms %s", function.name, invocation_id, milliseconds, result)
        return Outcome(error, value)

    async def close(self, grace: float) -> bool:
        """Give running invocations `grace` seconds, then cancel them; True when none was left over."""
        if self.running:
            log.info("waiting up to %g s for %d running invocations", grace, len(self.running))
            await asyncio.wait(self.running, timeout=grace)
        left = [task for task in self.running if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return not left


def select(functions: Iterable[Function], names: Iterable[str] | None, environ: Mapping[str, str]) -> list[Function]:
    """The functions to run: those named (None: all) that no setting AzureWebJobs.NAME.Disabled turns off."""
    functions = list(functions)
    wanted = set(names) if names is not None else {function.name for function in functions}
    if unknown := wanted - {function.name for function in functions}:
        raise HostError(f"the app has no function {', '.join(sorted(unknown))}")

    def disabled(name: str) -> bool:
        settings = (f"AzureWebJobs.{name}.Disabled", f"AzureWebJobs_{name}_Disabled")
        return any(environ.get(setting, "").lower() in ("true", "1") for setting in settings)

    return [function for function in functions if function.name in wanted and not disabled(function.name)]


def _function(entry: Any, environ: Mapping[str, str]) -> Function:  # Any: a protos.RpcFunctionMetadata
    bindings = [json.loads(text) for text in entry.raw_bindings]
    triggers = [binding for binding in bindings if binding["type"] in TRIGGERS]
    for binding in bindings:
        if binding not in triggers and (binding["type"], binding["name"]) != ("http", "$return"):
            raise HostError(
                f"the function {entry.name} has a binding of type {binding['type']} ({binding['name']}), "
                f"which this host does not model; it knows {', '.join(TRIGGERS)} and the HTTP response"
            )
    if len(triggers) != 1:
        raise HostError(f"the function {entry.name} has {len(triggers)} triggers; it must have one")
    if entry.retry_options is not None:
        raise HostError(f"the function {entry.name} has a retry policy, which this host does not model")
    whose = f"the function {entry.name}"
    trigger = {
        key: resolve(value, environ, whose) if isinstance(value, str) else value for key, value in triggers[0].items()
    }
    return Function(entry.name, entry.function_id, trigger)


def _request(**fields: protos.Bag) -> protos.Bag:
    return protos.Bag(request=protos.Bag(**fields), properties={"protos": protos, "host": "127.0.0.1"})
