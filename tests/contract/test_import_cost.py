"""What a cold instance loads: the Graph SDK and FastAPI wait until a function needs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.azurite import Azurite

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("msgraph", "msgraph_core", "fastapi", "azure.identity")
"""Together with every kiota package: what takes longer to load than the whole app."""

LOADED = f"""
import sys
def heavy():
    return sorted(
        name for name in sys.modules
        if name in {HEAVY} or (name.startswith("kiota_") and "." not in name)
    )
"""


def run(program: str, storage: str = "UseDevelopmentStorage=true") -> object:
    """The JSON that a program prints last, run as the app is, in a process of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TURNAROUND_")}
    env |= {"TURNAROUND_STORAGE": storage, "TURNAROUND_TENANT_ID": "lab", "TURNAROUND_TABLE": "importcost"}
    # Whatever asks for Graph despite all that gets no further than this machine.
    env |= {"TURNAROUND_GRAPH__CLOUD": "http://127.0.0.1:9", "TURNAROUND_GRAPH__STATIC_TOKEN": "sandbox"}
    command = [sys.executable, "-c", LOADED + program]
    answer = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_the_names_of_what_is_heavy_are_its_real_names() -> None:
    found = run("import json, shared.graph.sdk, fastapi, azure.identity; print(json.dumps(heavy()))")
    assert isinstance(found, list)
    assert {*HEAVY, "kiota_abstractions", "kiota_http"} <= set(found)


PYDANTIC = {
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "dotenv",
}


@pytest.mark.parametrize(
    ("role", "beside", "domain"),
    [
        ("front", set(), {"shared.domain.policy"}),
        ("engine", {"cronsim"}, None),
        ("all", {"cronsim"}, None),
    ],
)
def test_beside_azure_functions_loading_the_app_loads_pydantic_and_what_the_role_checks_at_its_start(
    role: str, beside: set[str], domain: set[str] | None
) -> None:
    """No SDK, no stage, and in a front nothing of the domain but the policy."""
    program = f"""
import json, os
import azure.functions
before = set(sys.modules)
os.environ["TURNAROUND_ROLE"] = "{role}"
import function_app
loaded = [name for name in sys.modules if name not in before]
ours = [name for name in loaded if name.startswith("shared.") and name.count(".") > 1]
packages = {{name.partition(".")[0] for name in loaded if name[0] != "_"}} - sys.stdlib_module_names
print(json.dumps({{"ours": ours, "packages": sorted(packages)}}))
"""
    found = run(program)
    assert isinstance(found, dict)
    assert set(found["packages"]) - PYDANTIC == {"function_app", "functions", "shared"} | beside
    assert not [name for name in found["ours"] if not name.startswith(("shared.domain.", "shared.messages."))]
    if domain is not None:
        assert {name for name in found["ours"] if name.startswith("shared.domain.")} == domain


def test_a_front_serves_its_api_without_loading_anything_of_graph(azurite: Azurite) -> None:
    program = """
import asyncio, json, os
for name in [name for name in os.environ if "GRAPH" in name]:
    del os.environ[name]
os.environ["TURNAROUND_ROLE"] = "front"
import azure.functions as func
import function_app
from shared import wiring

(web,) = function_app.app.get_functions()

async def main():
    call = {"headers": {}, "params": {}, "route_params": {}}
    body = {"requestId": "R", "requester": "desk", "reason": "left", "devices": [{"name": "PC"}]}
    asked = func.HttpRequest(method="POST", url="http://front/api/v1/requests", body=json.dumps(body).encode(), **call)
    looked = func.HttpRequest(method="GET", url="http://front/api/v1/requests/R", body=b"", **call)
    said = [(await web.get_user_function()(request, None)).status_code for request in (asked, looked)]
    graph = [name for name in sys.modules if name.startswith(("shared.graph", "msgraph", "kiota_", "azure.identity"))]
    print(json.dumps({"said": said, "graph": graph}))
    await wiring.queues().close()
    await wiring.store().table.client.close()

asyncio.run(main())
"""
    assert run(program, azurite.connection_string) == {"said": [202, 404], "graph": []}


def test_control_notify_and_an_idle_poll_load_nothing_heavy_and_the_poll_no_queue_sdk_either(azurite: Azurite) -> None:
    program = """
import asyncio, json
from dataclasses import asdict
from datetime import UTC, datetime
import azure.functions as func
import function_app
from shared import wiring

FUNCTIONS = {one.get_function_name(): one.get_user_function() for one in function_app.app.get_functions()}

def message(body):
    return func.QueueMessage(body=json.dumps(body).encode())

async def main():
    store = wiring.store()
    await store.table.create()
    await FUNCTIONS["poll"](None)
    queues = [name for name in sys.modules if name.startswith("azure.storage")]
    halt = {"command": "halt", "by": "tester", "why": "to see what is loaded"}
    await FUNCTIONS["control"](message(halt))
    data = {"at": datetime(2026, 11, 21, tzinfo=UTC).isoformat()}
    notice = {"id": "n", "type": "device.ready", "subject": "s", "queue": "reset-results", "data": data}
    await FUNCTIONS["notify"](message({"notices": [notice]}))
    halted = [row.key async for row in store.table.scan("control", "control~")]
    sent = wiring.queues().calls
    print(json.dumps({"heavy": heavy(), "polling": queues, "halted": len(halted), "sent": sent}))
    await wiring.queues().close()
    await store.table.client.close()

asyncio.run(main())
"""
    assert run(program, azurite.connection_string) == {"heavy": [], "polling": [], "halted": 1, "sent": 2}
