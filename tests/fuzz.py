"""Put hostile values into everything for as long as wanted: `python -m tests.fuzz SECONDS`.

These are the properties that the tests check with few examples, here with ever new ones. What breaks one is kept by
hypothesis (.hypothesis) and tried first by every later run, the tests among them. Ends with 1 where one is broken.
"""

import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import count

EXAMPLES = 100
"""Of one property in one round; between two of them the clock is looked at."""
MODULES = ("tests.contract.test_hostile", "tests.cli.test_record_command")


def properties() -> Iterator[tuple[str, Callable[[], None]]]:
    """The properties by name."""
    importlib.import_module("tests.conftest")  # the same profile of hypothesis as the tests have
    for module in map(importlib.import_module, MODULES):
        for name, test in vars(module).items():
            if getattr(test, "is_hypothesis_test", False):
                yield name, test


def main(seconds: float) -> int:
    """Go round the properties until the time is over or one is broken."""
    os.environ["TURNAROUND_FUZZ_EXAMPLES"] = str(EXAMPLES)
    logging.getLogger("shared").addHandler(logging.NullHandler())  # what the app logs is checked, not shown
    all_ = list(properties())
    ends, done = time.monotonic() + seconds, 0
    for number in count(1):
        for name, test in all_:
            if time.monotonic() >= ends:
                print(f"\n{done} examples of {len(all_)} properties, none broken")
                return 0
            left = max(0, round(ends - time.monotonic()))
            print(f"round {number}, {left} s left: {name.removeprefix('test_').replace('_', ' ')}", flush=True)
            try:
                test()
            except Exception:  # noqa: BLE001 - whatever a broken property raises is what was looked for
                traceback.print_exc()
                print(f"\nbroken after {done} examples: {name}")
                return 1
            done += EXAMPLES
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
    except KeyboardInterrupt:
        sys.exit(130)
