"""A worker's process: `python -m bench.worker APP FUNCTION` loads an app, gives one function what triggers it, and says
what that took. It imports nothing that a worker would not, so that the app's own imports are all there is to see."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox.host.protos import TypedData
from sandbox.host.worker import Worker

HALT = json.dumps({"command": "halt", "by": "bench", "why": "to see how long it takes"})
TICK = json.dumps({"IsPastDue": False, "Schedule": {}})


async def first(app: Path, name: str) -> dict[str, object]:
    """CPU seconds of this process until the app's functions are known, and until the first of them has run."""
    worker = Worker(None)
    (function,) = [one for one in await worker.load(app, os.environ) if one.name == name]
    indexed = time.process_time()
    data = TypedData(json=TICK) if function.trigger["type"] == "timerTrigger" else TypedData(string=HALT)
    outcome = await worker.invoke(function, data)
    handled = time.process_time()
    return {"indexed": indexed, "handled": handled, "modules": len(sys.modules), "error": outcome.error}


def main(arguments: Sequence[str]) -> None:
    app, name = arguments
    print(json.dumps({"event": "ready", **asyncio.run(first(Path(app), name))}), flush=True)
    os._exit(0)  # what the app has open ends with the process, as when Azure takes a worker down


if __name__ == "__main__":
    main(sys.argv[1:])
