"""CPU time of the pure decision: each step that a turnover makes, played again by itself."""

import statistics
import time
from collections import defaultdict
from datetime import datetime
from unittest.mock import patch

from bench.measure import Cell, Table
from bench.virtual import Course, play
from shared.domain.lifecycle import Decision, Happening, step
from shared.domain.policy import Policy
from shared.domain.reset import Reset
from shared.pipeline import advance

DEVICES = 500
ROUNDS = 9

type Given = tuple[Reset, Happening, datetime, Policy, str]


def run() -> Table:
    """The steps of a turnover, by what happened."""
    given: list[Given] = []

    def recorded(reset: Reset, happening: Happening, now: datetime, policy: Policy, who: str) -> Decision:
        given.append((reset, happening, now, policy, who))
        return step(reset, happening, now, policy, who)

    with patch.object(advance, "step", recorded):
        play(Course(DEVICES))
    rows: list[tuple[Cell, ...]] = []
    kinds: defaultdict[str, list[Given]] = defaultdict(list)
    for one in given:
        kinds[type(one[1]).__name__].append(one)
    for name, some in [("all", given), *sorted(kinds.items())]:
        rows.append((name, len(some) / DEVICES, _median_us(some)))
    return Table(("Step", "times a device", "CPU us each"), tuple(rows))


def _median_us(given: list[Given]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for one in given:
            step(*one)
        took.append((time.process_time() - began) / len(given) * 1e6)
    return statistics.median(took)
