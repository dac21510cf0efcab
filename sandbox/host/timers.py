"""Timer triggers as the real host runs them.

Behaviour after https://learn.microsoft.com/azure/azure-functions/functions-bindings-timer and the extension's source
(TimerListener in Azure/azure-webjobs-sdk-extensions). One thing differs: the real host keeps no status for schedules
shorter than a minute; this one does, so that a demo at many times real speed behaves as production does at its own.
"""

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ValidationError

from sandbox.host.declared import HostError
from sandbox.host.ncrontab import ScheduleError, following, parse
from sandbox.host.protos import TypedData
from sandbox.host.queues import wait_for
from sandbox.host.worker import Function, Worker

log = logging.getLogger("sandbox.host")

NEVER = datetime(1, 1, 1, tzinfo=UTC)


class Status(BaseModel):
    """A timer's ScheduleStatus: its last run (year 1: never), its next, and when this was written."""

    Last: AwareDatetime
    Next: AwareDatetime
    LastUpdated: AwareDatetime


class TimerListener:
    """Runs one function when its schedule says so, never twice at a time."""

    def __init__(self, function: Function, zone: ZoneInfo, state: Path, worker: Worker) -> None:
        self.function = function
        try:
            self.schedule = parse(function.text("schedule"))
        except ScheduleError as error:
            raise HostError(f"the function {function.name}: its schedule is wrong: {error}") from error
        self._zone = zone
        self._file = state / f"{function.name}.json" if function.trigger.get("useMonitor") is not False else None
        self._worker = worker
        self._one_at_a_time = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set: run at once if a run was missed or the function wants one at start, then on time."""
        now = datetime.now(UTC)
        status = self._load()
        if status is not None:
            base = now if status.LastUpdated == NEVER else status.LastUpdated
            expected = following(self.schedule, base, self._zone)
            if status.LastUpdated != NEVER and expected != status.Next:  # the schedule was changed
                status = status.model_copy(update={"Next": expected})
        past_due = status is not None and status.Next < now
        if status is None:
            status = Status(Last=NEVER, Next=following(self.schedule, now, self._zone), LastUpdated=NEVER)
        self._save(status)
        if past_due or self.function.trigger.get("runOnStartup"):
            status = await self._tick(status, now, past_due=past_due)
        while not stopping.is_set():
            wait = (status.Next - datetime.now(UTC)).total_seconds()
            if wait <= 0:
                status = await self._tick(status, datetime.now(UTC), past_due=False)
            else:
                await wait_for(stopping, wait)

    async def run_once(self) -> None:
        """Run the function now, outside its schedule, when no run of it is under way."""
        await self._invoke(self._load(), past_due=False)

    async def _tick(self, status: Status, at: datetime, *, past_due: bool) -> Status:
        await self._invoke(status if self._file else None, past_due=past_due)
        # Written after the run: a host that dies in between finds the run missed when it starts again.
        status = Status(Last=at, Next=following(self.schedule, at, self._zone), LastUpdated=at)
        self._save(status)
        return status

    async def _invoke(self, status: Status | None, *, past_due: bool) -> None:
        timer = {
            "Schedule": {"AdjustForDST": self.schedule.adjusts_for_dst},
            "ScheduleStatus": status.model_dump(mode="json") if status else None,
            "IsPastDue": past_due,
        }
        async with self._one_at_a_time:
            await self._worker.invoke(self.function, TypedData(json=json.dumps(timer)))

    def _load(self) -> Status | None:
        if self._file is None or not self._file.exists():
            return None
        try:
            return Status.model_validate_json(self._file.read_text("utf-8"))
        except ValidationError:
            log.warning("%s: %s cannot be read; starting anew", self.function.name, self._file)
            return None

    def _save(self, status: Status) -> None:
        if self._file is not None:
            scratch = self._file.with_suffix(".tmp")
            scratch.write_text(status.model_dump_json(), "utf-8")
            scratch.replace(self._file)
