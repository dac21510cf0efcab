"""One instance of the app: its timers and queue triggers as Azure Functions runs them, in one task each.

Behaviour after https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-queue-trigger and
functions-bindings-timer; `sandbox.host` is the same over a real worker, in real time.
"""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from sandbox.host.config import HostOptions, load_host_options
from sandbox.host.ncrontab import following, parse
from sandbox.memory import LeaseLostError, Message
from shared.domain.windows import Windows
from shared.messages.queues import CONTROL, DISPATCH, NOTICES, REQUESTS
from shared.pipeline.control import control
from shared.pipeline.dispatch import dispatch
from shared.pipeline.intake import intake
from shared.pipeline.notify import notify
from shared.pipeline.parts import Parts
from shared.pipeline.poison import poison
from shared.pipeline.poll import poll
from shared.pipeline.sweep import sweep
from shared.pipeline.sync import sync
from shared.pipeline.windows import windows

log = logging.getLogger(__name__)

APP = Path(__file__).resolve().parent.parent.parent
LEASE = timedelta(minutes=10)
"""For how long the host hides a message that it hands to a function."""
POISON = "-poison"
UTC = ZoneInfo("UTC")

type Stage = Callable[[Parts, str], Awaitable[None]]

TRIGGERS: Mapping[str, Stage] = {REQUESTS: intake, DISPATCH: dispatch, CONTROL: control, NOTICES: notify}


def schedules() -> dict[str, str]:
    """The timers' schedules as a fresh deployment has them: "windows", "sweep", "poll", "sync"."""
    values: dict[str, str] = json.loads((APP / "local.settings.sample.json").read_text("utf-8"))["Values"]
    prefix = "TURNAROUND_SCHEDULE_"
    return {name.removeprefix(prefix).lower(): text for name, text in values.items() if name.startswith(prefix)}


def host_options() -> HostOptions:
    """The app's own host.json."""
    return load_host_options(APP, {})


class Listened(Protocol):
    """Queues as the host listens to them: see `sandbox.memory.MemoryQueues`."""

    async def send(self, queue: str, body: str) -> None: ...

    async def receive(self, queue: str, limit: int, lease: timedelta) -> list[Message]: ...

    async def delete(self, queue: str, message: Message) -> None: ...

    async def hide(self, queue: str, message: Message, time: timedelta) -> Message: ...

    async def visible(self, queue: str) -> None: ...


async def _never_rest(timer: str) -> bool:  # noqa: ARG001 - a timer that rests may tell them apart
    return False


@dataclass
class Instance:
    """The app running on one machine, until it is stopped, at whatever it is doing."""

    parts: Parts
    queues: Listened
    random: random.Random
    options: HostOptions
    schedules: Mapping[str, str]
    plan: Windows = field(default_factory=Windows)
    failures: list[str] = field(default_factory=list)
    """What functions raised: the host logs it, and gives the message another try."""
    rest: Callable[[str], Awaitable[bool]] = _never_rest
    """Asked at every tick of a timer, by its name: sleeps through ticks at which there is nothing to do, and says
    whether it did."""
    failed: Callable[[str, Exception], None] | None = None
    """Told of what functions raised."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _listeners: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Start every listener."""
        timers: Mapping[str, Callable[[Parts], Awaitable[None]]] = {
            "windows": partial(windows, plan=self.plan),
            "sweep": sweep,
            "poll": poll,
            "sync": sync,
        }
        for name, tick in timers.items():
            self._listeners.append(self._spawn(self._timer(name, self.schedules[name], tick)))
        for queue, stage in TRIGGERS.items():
            self._listeners.append(self._spawn(self._listen(queue, stage)))
            self._listeners.append(self._spawn(self._listen(queue + POISON, partial(_poison, queue))))

    def listen_no_more(self) -> None:
        """Take no more messages and no more ticks; what is being done goes on, as when the host is told to end."""
        for task in self._listeners:
            task.cancel()

    async def stop(self) -> None:
        """End everything where it stands, as when the machine dies. Raises what broke a listener itself."""
        ended = list(self._tasks)
        self._tasks.clear()
        for task in ended:
            task.cancel()
        for outcome in await asyncio.gather(*ended, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def check(self) -> None:
        """Raises what broke a listener: a defect of this host, as functions' own failures are kept."""
        for task in self._tasks:
            if task.done() and (error := task.exception()):
                raise error

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def _run(self, name: str, stage: Awaitable[None]) -> bool:
        """Whether a function came to its end."""
        limit = self.options.function_timeout
        try:
            async with asyncio.timeout(limit.total_seconds() if limit else None):
                await stage
        except Exception as error:  # whatever a function raises, the host goes on
            self.failures.append(f"{name}: {error!r}")
            if self.failed is not None:
                self.failed(name, error)
            log.warning("%s failed", name, exc_info=error)
            return False
        return True

    async def _timer(self, name: str, schedule: str, stage: Callable[[Parts], Awaitable[None]]) -> None:
        """Never twice at once; a run that took too long is followed by the next at once."""
        times = parse(schedule)
        due = following(times, self.parts.clock(), UTC)
        while True:
            await asyncio.sleep((due - self.parts.clock()).total_seconds())
            if await self.rest(name):
                due = following(times, self.parts.clock(), UTC)
                continue
            began = self.parts.clock()
            await self._run(name, stage(self.parts))
            due = following(times, began, UTC)

    async def _listen(self, queue: str, stage: Stage) -> None:
        """Take messages in batches, a new one when few enough are still in hand."""
        options = self.options.extensions.queues
        running: set[asyncio.Task[None]] = set()
        while True:
            if len(running) > options.new_batch_threshold:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            else:
                await self._find(queue, found=bool(running))
                for message in await self.queues.receive(queue, options.batch_size, LEASE):
                    running.add(self._spawn(self._process(queue, stage, message)))
            self._tasks -= (done := {task for task in running if task.done()})
            running -= done
            for task in done:
                task.result()

    async def _find(self, queue: str, *, found: bool) -> None:
        """Wait for a message. The host asks an empty queue now and then; one that had something it asks again soon."""
        await self.queues.visible(queue)
        longest = self.options.extensions.queues.max_polling_interval.total_seconds()
        await asyncio.sleep(0.1 if found else self.random.uniform(0, longest))

    async def _process(self, queue: str, stage: Stage, message: Message) -> None:
        options = self.options.extensions.queues
        try:
            if message.dequeue_count > options.max_dequeue_count and not queue.endswith(POISON):
                await self._bury(queue, message)  # the instance died each time it tried
            elif await self._run(queue, stage(self.parts, message.body)):
                await self.queues.delete(queue, message)
            elif queue.endswith(POISON):
                return  # stays hidden until its lease ends
            elif message.dequeue_count >= options.max_dequeue_count:
                await self._bury(queue, message)
            else:
                await self.queues.hide(queue, message, options.visibility_timeout)
        except (LeaseLostError, OSError) as error:
            log.warning("%s: the message comes again, or is somebody else's now: %s", queue, error)

    async def _bury(self, queue: str, message: Message) -> None:
        await self.queues.send(queue + POISON, message.body)
        await self.queues.delete(queue, message)


async def _poison(queue: str, parts: Parts, body: str) -> None:
    await poison(parts, queue, body)
