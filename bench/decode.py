"""Time to decode a page of 1,000 managed devices: by the gateway, and by msgraph-sdk's models."""

import json
import time
from collections.abc import Callable

import httpx

from bench.measure import TOKEN, Cell, Table, UnsoundError, median, tenant
from shared.graph import decode

DEVICES = 1000
ROUNDS = 4
REPEATS = 5
"""Times that the quick ones run in a round, for one time of the slow one."""


def run() -> Table:
    """The page as the gateway asks for it, and as Graph gives it when no $select says less."""
    # Here, since it takes a second.
    from kiota_serialization_json.json_parse_node_factory import JsonParseNodeFactory
    from msgraph.generated.models.managed_device_collection_response import ManagedDeviceCollectionResponse

    from shared.graph.sdk import FACTS

    def gateway(page: bytes) -> int:
        return len([decode.managed_device(row) for row in json.loads(page)["value"]])

    def models(page: bytes) -> int:
        node = JsonParseNodeFactory().get_root_parse_node("application/json", page)
        found = node.get_object_value(ManagedDeviceCollectionResponse)
        return len((found.value if found else None) or [])

    def parsed(page: bytes) -> int:
        return len(json.loads(page)["value"])

    rows: list[tuple[Cell, ...]] = []
    for name, options in (("with the gateway's $select", {"$select": ",".join(FACTS)}), ("whole records", {})):
        page = _page(options)
        models(page)  # the first one also imports the model of everything that a device may hold
        times: dict[str, list[float]] = {"gateway": [], "models": [], "json": []}
        for _ in range(ROUNDS):
            times["gateway"] += _times(gateway, page, REPEATS)
            times["models"] += _times(models, page, 1)
            times["json"] += _times(parsed, page, REPEATS)
        ours, theirs, floor = (median(times[who]) for who in ("gateway", "models", "json"))
        rows.append((name, len(page) / 1e6, ours, theirs, theirs / ours, floor))
    columns = (
        "1,000 managed devices",
        "MB",
        "gateway, CPU ms",
        "SDK models, CPU ms",
        "ratio",
        "json.loads alone, CPU ms",
    )
    return Table(columns, tuple(rows))


def _page(options: dict[str, str]) -> bytes:
    with tenant(DEVICES) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.get(f"{url}/beta/deviceManagement/managedDevices", params=options, headers=headers, timeout=60)
        return answer.raise_for_status().content


def _times(read: Callable[[bytes], int], page: bytes, repeats: int) -> list[float]:
    """Milliseconds of CPU of each repeat: the long ones would suffer more from other work on the machine."""
    found: list[float] = []
    for _ in range(repeats):
        began = time.process_time()
        count = read(page)
        found.append((time.process_time() - began) * 1000)
        if count != DEVICES:
            raise UnsoundError(f"{count} of {DEVICES} devices were decoded")
    return found
