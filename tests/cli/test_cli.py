"""The commands that need nothing but their input, and what is said of input that cannot be used."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from shared import wiring

GOOD = {
    "requestId": "INC1",
    "requester": "desk@contoso.example",
    "reason": "left",
    "devices": [{"serialNumber": "A"}, {"name": "B"}],
}
NOWHERE = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;QueueEndpoint=http://127.0.0.1:9/a;"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of the developer's own shell; what a command sets is taken back; nothing is cached."""
    for name in ("TURNAROUND_STORAGE", "TURNAROUND_TENANT_ID", "TURNAROUND_TABLE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    forget()
    yield
    forget()


def forget() -> None:
    for part in (wiring.settings, wiring.store, wiring.queues):
        part.cache_clear()


def run(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=given)


def file(folder: Path, content: object) -> str:
    path = folder / "request.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return str(path)


def test_a_valid_request_file_is_told_to_be_valid_and_nothing_is_sent(tmp_path: Path) -> None:
    ended = run("request", file(tmp_path, GOOD), "--check")
    assert ended.exit_code == 0
    assert "is valid. request INC1: 2 devices in 1 message; nothing was sent" in ended.stdout


def test_a_request_is_read_from_the_input(tmp_path: Path) -> None:
    ended = run("request", "-", "--check", "--json", given=json.dumps(GOOD).encode())
    assert json.loads(ended.stdout) == {"requestId": "INC1", "devices": 2, "messages": 1, "sent": False}


def test_a_large_request_goes_in_several_messages(tmp_path: Path) -> None:
    devices = [{"serialNumber": f"{n:040}"} for n in range(5000)]
    ended = run("request", file(tmp_path, {**GOOD, "devices": devices}), "--check", "--json")
    assert json.loads(ended.stdout)["devices"] == 5000
    assert json.loads(ended.stdout)["messages"] > 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("please reset PC-1", "message: Invalid JSON"),
        ({**GOOD, "urgent": True}, "urgent: "),
        ({**GOOD, "devices": [{"serialNumber": "A", "name": "B"}]}, "devices.0: name the device in exactly one"),
    ],
)
def test_a_request_that_is_not_valid_is_refused_by_field_and_fault(tmp_path: Path, content: object, said: str) -> None:
    ended = run("request", file(tmp_path, content))
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert ended.stdout == ""


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = run("request", str(tmp_path / "no.json"), "--check")
    assert ended.exit_code == 2
    assert "no.json cannot be read: No such file or directory." in ended.stderr


def test_a_file_that_is_not_text_is_told_of(tmp_path: Path) -> None:
    ended = run("request", "-", "--check", given=b"\xff\xfe{}")
    assert ended.exit_code == 2
    assert "is not UTF-8" in ended.stderr


def test_the_schema_accepts_what_the_command_accepts_and_refuses_what_it_refuses() -> None:
    schema = json.loads(run("schema").stdout)
    jsonschema.validate(GOOD, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**GOOD, "urgent": True}, schema)


@pytest.mark.parametrize(
    ("arguments", "lacks"),
    [
        (("status", "INC1"), "TURNAROUND_TENANT_ID"),
        (("history", "request:INC1", "--tenant", "t"), "TURNAROUND_STORAGE"),
        (("halt", "--by", "me", "--why", "fire"), "TURNAROUND_STORAGE"),
        (("cancel", "INC1"), "--by"),
    ],
)
def test_a_command_that_lacks_something_says_what_and_ends_with_2(arguments: tuple[str, ...], lacks: str) -> None:
    ended = run(*arguments)
    assert ended.exit_code == 2
    assert lacks in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("halt", "--by", "", "--why", "fire"), "by: "),
        (("resume", "--by", "me", "--why", " "), "why: "),
        (("retry", "not an id", "--by", "me", "--why", "x"), "requestId: "),
    ],
)
def test_a_command_message_is_checked_before_it_is_sent(arguments: tuple[str, ...], said: str) -> None:
    ended = run(*arguments, "--connection", NOWHERE)
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_a_connection_string_that_is_none_is_told_of(tmp_path: Path) -> None:
    ended = run("request", file(tmp_path, GOOD), "--connection", "nonsense")
    assert ended.exit_code == 2
    assert "onnection string" in ended.stderr


def test_the_sandbox_adds_its_commands() -> None:
    said = run("--help").stdout
    assert " demo " in said
    assert " up " in said
