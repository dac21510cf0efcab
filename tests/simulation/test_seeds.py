"""Days on which much goes wrong, drawn from seeds: what must hold, holds on each of them."""

import logging
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from sandbox.simulation.__main__ import one, told
from sandbox.simulation.day import Outcome, play
from sandbox.simulation.plan import calm, draw
from sandbox.simulation.trouble import Noted
from shared.domain.states import State

DAYS, CHUNK, SIZE = 200, 5, 6
"""Seeds that every run of the tests plays, how many at a time, and with how many devices at most."""

FOUND = {
    (6, SIZE): "the history of a turnaround read in another order than it happened, where clocks differ",
    (48, SIZE): "a lab window that stays open for longer than history is kept was opened again",
    (84, SIZE): "a request was forgotten while a device of it was in flight",
    (9, SIZE): "a device to be retired was reset: no list shows what is pending on it, and nobody asked for it alone",
    (
        234,
        SIZE,
    ): "a device on battery was called ready as it took its order after its return: its user was missed first then",
    (261, SIZE): "the same where the user goes with the order, and the action is done once it is taken",
    (116, SIZE): "notices were sent again and again, since one of those that shared their message failed each time",
    (79, 200): "the rules took a lab window for lost whose message was set aside, of which people are told",
}
"""Seeds, with their size, that show what was once wrong, should it come back."""


@pytest.mark.parametrize("first", range(1, DAYS, CHUNK))
def test_what_must_hold_holds_on_bad_days(first: int) -> None:
    failed = [told(day, SIZE) for seed in range(first, first + CHUNK) if (day := one(seed, SIZE)).faults]
    assert not failed, "\n\n".join(failed)


def test_a_day_that_was_played_leaves_logs_as_they_were() -> None:
    before = logging.root.manager.disable
    one(1, 1)
    assert logging.root.manager.disable == before


@pytest.mark.parametrize(("seed", "size"), FOUND)
def test_what_was_found_once_is_mended(seed: int, size: int) -> None:
    day = one(seed, size)
    assert not day.faults, told(day, size)


def test_bad_days_are_bad_and_devices_become_ready_all_the_same() -> None:
    days = [one(seed, SIZE) for seed in range(1, 11)]
    assert sum(day.ends["ready"] for day in days) > 2
    kinds = {kind for day in days for kind in day.injected}
    assert {"graph call", "table commit", "table read", "queue send"} <= {kind.split(":")[0] for kind in kinds}
    assert any("the process dies" in kind for kind in kinds)


def test_on_some_days_lab_windows_open_and_on_some_everything_is_forgotten() -> None:
    plans = [draw(seed, 2) for seed in range(1, 50)]
    opening = play(next(plan for plan in plans if plan.openings and not plan.rates.skip and not plan.forgets))
    assert any(f"request|{one.request}" in opening.table for one in opening.plan.openings)
    forgetful = play(next(plan for plan in plans if plan.forgets))
    assert forgetful.ends
    assert {key.split("|")[0] for key in forgetful.table} <= {"budget", "control", "window"}


def all_of(day: Outcome) -> tuple[object, ...]:
    return day.log, day.table, day.queues, day.injected, day.took


def test_one_seed_is_one_run_to_the_last_row_and_message() -> None:
    assert all_of(play(draw(3, SIZE))) == all_of(play(draw(3, SIZE)))
    assert all_of(play(draw(3, SIZE))) != all_of(play(draw(4, SIZE)))


def test_one_seed_is_one_run_in_any_process() -> None:
    """Nothing may hang on the order of a set, which differs from process to process."""
    script = "from sandbox.simulation.day import play; from sandbox.simulation.plan import draw; import logging\n"
    script += "logging.disable(50); print(*(play(draw(seed, 5)).digest for seed in range(1, 6)))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in (1, 2)
    ]
    assert runs[0].stdout == runs[1].stdout


def test_the_story_of_a_device_is_its_own() -> None:
    day = play(calm(1, 2))
    (first, other) = {key.split("|")[1] for key in day.table if key.startswith("event|") and "request:" not in key}
    story = " ".join(day.story(first))
    assert "The request was accepted" in story
    assert "proven ready" in story
    assert "io.turnaround.device.ready" in story
    assert "instance 0 starts" in story
    assert other not in story


def test_the_story_of_a_request_tells_of_its_devices_and_of_no_other_request() -> None:
    day = next(day for seed in range(1, 50) if "request|R3" in (day := play(draw(seed, SIZE))).table)
    story = day.story("request:R3")
    assert any("The request was accepted" in line and "(R3" in line for line in story)
    assert not any("(R1, " in line or "(R2, " in line for line in story)


def test_where_a_rule_is_about_nothing_in_particular_the_last_minutes_before_it_broke_are_the_story() -> None:
    day = play(draw(3, SIZE))
    broke = Noted(day.log[100].at, "", "RULE BROKEN: one and one are two")
    story = replace(day, log=[*day.log[:100], broke, *day.log[100:]]).story("")
    assert story[-1].endswith("one and one are two")
    assert story[-2].endswith(day.log[99].text)


def test_a_day_that_fails_says_how_to_play_it_again_and_tells_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.pipeline.notify.notices_in", lambda _: [])  # nobody is ever told anything
    day = one(2, SIZE)
    text = told(day, SIZE)
    assert "dev.py simulate --seed 2 --size 6" in text
    assert re.search(r"the request (R\d) was never answered \(request:\1\)", text)
    assert any("RULE BROKEN: the request" in line for line in day.story)


def test_a_calm_day_ends_with_every_device_ready() -> None:
    day = play(calm(1, 30))
    assert not day.faults
    assert day.ends == {State.READY: 30}
    assert day.resets == 30
