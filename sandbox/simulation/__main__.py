"""`python -m sandbox.simulation --first 1 --seeds 1000`: play days one after the other, and stop at none that fails."""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from sandbox.simulation.day import Outcome, play
from sandbox.simulation.plan import Plan, calm, draw, rough

SHOWN = 20
"""Days that failed whose stories are shown."""


@dataclass(frozen=True)
class Short:
    """What is kept of a day."""

    seed: int
    faults: tuple[str, ...]
    story: tuple[str, ...]
    took: timedelta
    injected: Counter[str]
    ends: Counter[str]
    resets: int


def one(seed: int, size: int) -> Short:
    """Play the day of this seed."""
    with _silence():
        day = play(draw(seed, size))
    about = day.faults[0][1] if day.faults else ""
    return Short(
        seed=seed,
        faults=tuple(f"{rule} ({about})" if about else rule for rule, about in day.faults),
        story=tuple(day.story(about)) if day.faults else (),
        took=day.took,
        injected=day.injected,
        ends=Counter({state.value: count for state, count in day.ends.items()}),
        resets=day.resets,
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """A bad day has much to log; whoever plays it may have something to say afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def told(day: Short, size: int) -> str:
    """A day that failed, in words: the rules that did not hold, the story of what the first of them concerns, and how
    to play it again."""
    again = f"python dev.py simulate --seed {day.seed} --size {size}"
    faults = [f"  {fault}" for fault in list(dict.fromkeys(day.faults))[:10]]
    story = [f"    {line}" for line in day.story]
    return "\n".join([f"seed {day.seed} fails; play it again: {again}", *faults, "  what happened:", *story])


def days(first: int, seeds: int, size: int, processes: int) -> Iterator[Short]:
    """The days of so many seeds, as they end."""
    if processes == 1:
        yield from (one(seed, size) for seed in range(first, first + seeds))
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(one, range(first, first + seeds), [size] * seeds, chunksize=4)


def main() -> int:
    """Play them, and say what came of it; 1 where a rule did not hold."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--size", type=int, default=8, help="devices a day at most")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--stop", action="store_true", help="stop at the first day that fails")
    parser.add_argument("--calm", type=int, metavar="DEVICES", help="instead: one day without trouble, and its speed")
    parser.add_argument("--rough", type=int, metavar="DEVICES", help="the same, with trouble")
    given = parser.parse_args()
    if given.seed is not None:
        given.first, given.seeds, given.processes = given.seed, 1, 1
    if given.calm or given.rough:
        return _large(
            rough(given.first, given.rough) if given.rough else calm(1, given.calm), given.rough or given.calm
        )
    began, shown, count = time.monotonic(), time.monotonic(), 0
    injected, ends, failed, resets, took = Counter[str](), Counter[str](), list[int](), 0, timedelta()
    for day in days(given.first, given.seeds, given.size, given.processes):
        count += 1
        injected, ends, resets, took = injected + day.injected, ends + day.ends, resets + day.resets, took + day.took
        if day.faults:
            failed.append(day.seed)
            if len(failed) <= SHOWN:
                print(told(day, given.size), flush=True)
            if given.stop:
                break
        if time.monotonic() > shown + 10:
            shown = time.monotonic()
            print(f"{count} of {given.seeds} days, {len(failed)} failed", flush=True)
    print(f"{count} days ({took.days} days of virtual time) in {time.monotonic() - began:.0f} s, {len(failed)} failed")
    print(f"turnarounds: {_counts(ends)}; {resets} resets were taken")
    print(f"trouble: {sum(injected.values())}")
    for kind, number in injected.most_common():
        print(f"  {number:8}  {kind}")
    if failed:
        print(f"seeds that failed: {', '.join(map(str, failed))}")
    return 1 if failed else 0


def _large(plan: Plan, devices: int) -> int:
    with _silence():
        play(calm(0, 1))  # the SDK is slow to load
        began = time.perf_counter()
        day: Outcome = play(plan)
        took = time.perf_counter() - began
    print(f"{devices} devices in {took:.2f} s: {devices / took:.0f} turnarounds a second; {_counts(day.ends)}")
    print(f"{sum(day.injected.values())} times trouble, {day.resets} resets were taken, {day.took} of virtual time")
    for rule, about in day.faults[:10]:
        print(f"  {rule} {about}")
    return 1 if day.faults else 0


def _counts[Name: str](counts: "Counter[Name]") -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
