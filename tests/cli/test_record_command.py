"""`turnaround history`, `status` and `record`: what they tell of a device, whatever the device is called."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import jsonschema
import pytest
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cli.main import app
from shared import wiring
from shared.domain.record import NOT_A_CERTIFICATE
from shared.domain.shown import shown
from shared.pipeline.control import control
from shared.pipeline.intake import intake
from shared.state.store import Store
from tests.hostile import TEXT, TOLD, assert_page, assert_plain, hostile
from tests.pipeline.fakes import Rig, asking, device, device_id, rig

HOSTILE = "\x7f\x1b[2J\u202e[bold]:smile:<script>\n=1+1"
ENVIRONMENT = {"TURNAROUND_TENANT_ID": "lab", "TURNAROUND_STORAGE": "UseDevelopmentStorage=true"}
DEVICE = device_id(1)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """The developer's own are not read, and nothing is cached."""
    wiring.settings.cache_clear()
    yield
    wiring.settings.cache_clear()


async def lived(name: str) -> Rig:
    """One device of this name went all the way; another, of the same, was refused."""
    world = rig(device(1, name=name, model=name), device(2, name=name, operating_system=name))
    await world.trigger(1, 2)
    await world.tick(minutes=1)
    world.intune.take(DEVICE)
    for minutes in (4, 10, 30):
        await world.tick(minutes=minutes)
    world.intune.come_back(DEVICE)
    for minutes in (1, 3, 3):
        await world.tick(minutes=minutes)
        world.intune.check_in(DEVICE)
    await world.tick(minutes=1)
    await control(world.parts, json.dumps({"command": "cancel", "requestId": "R1", "by": "admin", "why": "too late"}))
    return world


def run(world: Rig, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wiring, "store", lambda: Store(world.table))
        return CliRunner().invoke(app, arguments, env=ENVIRONMENT)


@pytest.fixture
def world() -> Rig:
    return asyncio.run(lived(HOSTILE))


def test_the_history_of_a_device_is_told_as_a_story(world: Rig) -> None:
    ended = run(world, "history", DEVICE.upper())
    assert ended.exit_code == 0, ended.stderr
    said = ended.stdout
    for words in ("Asked by service@contoso.example", "client-request-id 33333333", "Intune took the order", "proven"):
        assert words in said
    assert said.startswith(f"History of {DEVICE.upper()}\n\nRequest R1, device {shown(HOSTILE)}, serial number SN1\n")


def test_the_history_of_a_device_stays_available_as_events_in_json(world: Rig) -> None:
    events = json.loads(run(world, "history", DEVICE, "--json").stdout)
    assert [event["kind"] for event in events][:2] == ["moved", "moved"]
    assert {event["device"] for event in events} == {DEVICE}


def test_each_turnaround_of_a_device_is_a_story_of_its_own(world: Rig) -> None:
    world.clock.forward(days=40)
    asyncio.run(intake(world.parts, asking(1, request="R2")))
    said = run(world, "history", DEVICE).stdout
    assert re.findall(r"^Request (\w+), device", said, re.MULTILINE) == ["R1", "R2"]
    assert said.count("Intune took the order") == 1


def test_the_history_of_a_request_tells_of_the_request(world: Rig) -> None:
    said = run(world, "history", "request:R1").stdout
    assert "The request was accepted" in said


def test_a_record_is_written_as_json_that_fits_the_printed_schema_and_as_a_page(world: Rig, tmp_path: Path) -> None:
    as_json, as_page = tmp_path / "record.json", tmp_path / "record.html"
    ended = run(world, "record", "R1", "--device", DEVICE, "--json", str(as_json), "--html", str(as_page))
    assert ended.exit_code == 0, ended.stderr
    made = json.loads(as_json.read_text("ascii"))
    jsonschema.validate(made, json.loads(CliRunner().invoke(app, ["schema", "reset-record"]).stdout))
    assert (made["outcome"]["state"], made["device"]["name"]) == ("ready", HOSTILE)
    assert shown(HOSTILE) in assert_page(as_page.read_text("utf-8"))


def test_without_a_file_the_record_is_told_and_says_what_it_is_not(world: Rig) -> None:
    said = run(world, "record", "R1", "--device", DEVICE).stdout
    assert "Ended ready" in said
    assert NOT_A_CERTIFICATE in said


def test_a_record_goes_to_the_output_too(world: Rig) -> None:
    assert json.loads(run(world, "record", "R1", "--device", DEVICE, "--json", "-").stdout)["recordVersion"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("record", "R9", "--device", DEVICE), 1, "Nothing is known of the device"),
        (("record", "R1", "--device", device_id(9)), 1, "Nothing is known of the device"),
        (("record", "R/1", "--device", DEVICE), 2, "R/1 is no id of a request"),
        (("record", "R1", "--device", "PC-1"), 2, "PC-1 is no Intune id"),
        (("record", "R1", "--device", DEVICE, "--html", "/"), 2, "/ cannot be written: Is a directory."),
        (("status", "a\x1b[2J/b"), 2, "a\\x1b[2J/b is no id of a request"),
        (("history", "no\x1bwhere"), 1, "no\\x1bwhere"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_sentence(
    world: Rig, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = run(world, *arguments)
    assert (ended.exit_code, ended.stdout) == (code, "")
    assert said in ended.stderr


def exported(folder: Path, name: str) -> None:
    """Graph's three lists, with one device of this name and all else that it may be called by."""
    entra = "feedfeed-0000-4000-8000-000000000001"
    called = {"deviceName": name, "serialNumber": name, "model": name, "managementState": name, "userId": ""}
    lists = {
        "managedDevices": {"id": DEVICE, "azureADDeviceId": entra, "operatingSystem": "Windows", **called},
        "devices": {"deviceId": entra, "trustType": name},
        "windowsAutopilotDeviceIdentities": {
            "id": name,
            "managedDeviceId": DEVICE,
            "serialNumber": name,
            "groupTag": name,
        },
    }
    for list_, row in lists.items():
        (folder / f"{list_}.json").write_text(json.dumps({"value": [row]}), "utf-8")
    (folder / "request.json").write_text(asking(devices=[{"intuneId": DEVICE}]), "utf-8")


@hostile(TEXT | st.just(HOSTILE), examples=10)
def test_a_plan_by_whatever_graph_exported_is_told_in_plain_text_and_in_ascii(name: str) -> None:
    with TemporaryDirectory() as folder:
        exported(Path(folder), name)
        plan = ("plan", f"{folder}/request.json", "--offline", folder)
        told, as_json = CliRunner().invoke(app, plan), CliRunner().invoke(app, [*plan, "--json"])
    assert (told.exit_code, as_json.exit_code) == (3, 3), told.stderr
    assert_plain(told.stdout)
    assert as_json.stdout.isascii()
    assert_plain(as_json.stdout)


COMMANDS = (("status", "R1"), ("history", DEVICE), ("history", device_id(2)), ("record", "R1", "--device", DEVICE))


@hostile(TOLD.filter(str.strip) | st.just(HOSTILE), examples=10)
def test_whatever_a_device_is_called_the_commands_show_it_escaped_and_as_it_is_spelt(name: str) -> None:
    world = asyncio.run(lived(name))
    for arguments in COMMANDS:
        ended = run(world, *arguments)
        assert ended.exit_code == 0, ended.stderr
        assert_plain(ended.stdout)
        assert shown(name).strip() in ended.stdout
    for arguments in (("status", "R1"), ("history", DEVICE), ("record", "R1", "--device", DEVICE, "--json", "-")):
        said = run(world, *arguments, *(() if arguments[0] == "record" else ("--json",))).stdout
        assert said.isascii()
        assert_plain(said)
        json.loads(said)
