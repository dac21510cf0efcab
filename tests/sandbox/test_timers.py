"""A timer's status decides what is run at start."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sandbox.host.declared import HostError
from sandbox.host.protos import TypedData
from sandbox.host.timers import NEVER, Status, TimerListener
from sandbox.host.worker import Function, Outcome, Worker

SELDOM = "0 0 0 1 1 *"


class Recorder(Worker):
    """Notes what timers are run with instead of running an app."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__(None)
        self.ran: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self._seconds = seconds

    async def invoke(
        self, function: Function, data: TypedData, metadata: Mapping[str, TypedData] | None = None
    ) -> Outcome:
        self.ran.append(json.loads(data.json))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self._seconds)
        self.at_once -= 1
        return Outcome(None)


def listener(state: Path, worker: Worker, schedule: str = SELDOM, **trigger: object) -> TimerListener:
    binding = {"type": "timerTrigger", "name": "t", "schedule": schedule, **trigger}
    return TimerListener(Function("f", "id", binding), ZoneInfo("UTC"), state, worker)


async def start_and_stop(timer: TimerListener) -> None:
    """Run the listener until it waits for its next run."""
    stopping = asyncio.Event()
    running = asyncio.create_task(timer.run(stopping))
    await asyncio.sleep(0.02)
    stopping.set()
    await running


def stored(state: Path) -> Status:
    return Status.model_validate_json((state / "f.json").read_text())


def store(state: Path, **times: datetime) -> None:
    (state / "f.json").write_text(Status(**times).model_dump_json())


async def test_a_timer_seen_for_the_first_time_waits_and_writes_down_when_it_is_due(tmp_path: Path) -> None:
    worker = Recorder()
    await start_and_stop(listener(tmp_path, worker))
    assert worker.ran == []
    assert stored(tmp_path).Last == NEVER
    assert (stored(tmp_path).Next.month, stored(tmp_path).Next.day) == (1, 1)


async def test_a_timer_that_never_ran_and_missed_its_first_run_is_past_due(tmp_path: Path) -> None:
    worker = Recorder()
    store(tmp_path, Last=NEVER, Next=datetime.now(UTC) - timedelta(hours=1), LastUpdated=NEVER)
    await start_and_stop(listener(tmp_path, worker))
    assert [run["IsPastDue"] for run in worker.ran] == [True]
    assert stored(tmp_path).Next > datetime.now(UTC)
    await start_and_stop(listener(tmp_path, worker))
    assert len(worker.ran) == 1


async def test_a_schedule_that_was_changed_is_judged_by_the_new_one(tmp_path: Path) -> None:
    worker, an_hour_ago = Recorder(), datetime.now(UTC) - timedelta(hours=1)
    store(tmp_path, Last=an_hour_ago, Next=an_hour_ago + timedelta(minutes=1), LastUpdated=an_hour_ago)
    await start_and_stop(listener(tmp_path, worker))
    assert worker.ran == []
    assert stored(tmp_path).Next > datetime.now(UTC)


async def test_a_timer_may_ask_to_run_at_start(tmp_path: Path) -> None:
    worker = Recorder()
    await start_and_stop(listener(tmp_path, worker, runOnStartup=True))
    assert [run["IsPastDue"] for run in worker.ran] == [False]


async def test_a_timer_without_monitor_keeps_and_gets_no_status(tmp_path: Path) -> None:
    worker = Recorder()
    await start_and_stop(listener(tmp_path, worker, runOnStartup=True, useMonitor=False))
    assert [run["ScheduleStatus"] for run in worker.ran] == [None]
    assert not (tmp_path / "f.json").exists()


async def test_a_timer_never_runs_beside_itself(tmp_path: Path) -> None:
    worker = Recorder(seconds=0.01)
    timer = listener(tmp_path, worker)
    await asyncio.gather(timer.run_once(), timer.run_once(), timer.run_once())
    assert (len(worker.ran), worker.most_at_once) == (3, 1)


async def test_a_status_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("{")
    worker = Recorder()
    await start_and_stop(listener(tmp_path, worker))
    assert worker.ran == []
    assert stored(tmp_path).Last == NEVER


def test_a_bad_schedule_is_refused_by_the_functions_name(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="function f: its schedule is wrong: second: 99"):
        listener(tmp_path, Recorder(), "99 * * * * *")
