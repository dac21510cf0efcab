"""The local Functions host, watched from within: python -m bench.watched FIGURES SPAN, then what `sandbox.host` takes.

FIGURES is a file that holds the latest figures, a JSON object, written anew twice a second. SPAN is the seconds for
which the app takes Graph's window of 20; 0 leaves it as it is.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from bench.conflicts import counted
from sandbox.host import __main__ as host
from shared.domain import guardrails
from shared.state.table import AzureTable, Change

EVERY = 0.5
_commit = AzureTable.commit
_run = host.run
counts: Counter[str] = Counter()


async def commit(self: AzureTable, changes: Sequence[Change]) -> None:
    """As it is, and counted."""
    with counted(changes, counts):
        await _commit(self, changes)


async def _watch(file: Path) -> None:
    while True:
        scratch = file.with_suffix(".tmp")
        scratch.write_text(json.dumps({**_held(), **counts}), "utf-8")
        scratch.replace(file)
        await asyncio.sleep(EVERY)


def _held() -> dict[str, int]:
    """What this process holds that cannot be seen from outside."""
    return {
        "tasks": len(asyncio.all_tasks()),
        "blocks": sys.getallocatedblocks(),
        "interned": sys.getunicodeinternedsize(),
    }


def main() -> None:
    file, span = Path(sys.argv.pop(1)), float(sys.argv.pop(1))

    async def run(options: argparse.Namespace, state: Path, stdout: TextIO) -> bool:
        watching = asyncio.create_task(_watch(file))
        try:
            return await _run(options, state, stdout)
        finally:
            watching.cancel()

    if span:
        guardrails.SPAN = timedelta(seconds=span)
    # Counted from outside, by other methods in place of the app's own: the app knows of none of this.
    AzureTable.commit = commit  # type: ignore[method-assign]
    host.run = run
    host.main()


if __name__ == "__main__":
    main()
