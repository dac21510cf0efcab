"""The reference pages say what the code does: every code, setting, notice and window key stands in them."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from shared.domain.notices import NoticeType
from shared.domain.policy import Policy
from shared.domain.reasons import WORDS
from shared.domain.record import ResetRecord
from shared.domain.request import ResetRequest, parse
from shared.domain.states import State
from shared.domain.windows import Window
from shared.settings import GraphSettings, Settings

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def test_every_reason_stands_in_its_page_in_the_very_words() -> None:
    rows = [f"| `{code}` | {words.sentence} | {words.remedy} |" for code, words in WORDS.items()]
    assert page("reasons.md").splitlines()[6:] == rows


def test_every_policy_setting_stands_in_its_page_with_its_default() -> None:
    text = page("settings.md")
    for name, field in Policy.model_fields.items():
        default = field.default
        if isinstance(default, timedelta):
            default = TypeAdapter(timedelta).dump_python(default, mode="json")
        shown = "none" if default in (frozenset(), ()) else default
        assert f"| `{name.upper()}` | `{shown}` |" in text


def test_every_setting_stands_in_its_page_and_the_page_names_no_other() -> None:
    wanted = {f"TURNAROUND_GRAPH__{name.upper()}" for name in GraphSettings.model_fields}
    functions = "".join(path.read_text("utf-8") for path in (ROOT / "functions").glob("*.py"))
    wanted |= set(re.findall(r"%(TURNAROUND_\w+)%", functions))
    own = set(Settings.model_fields) - {"graph", "policy", "storage_identity", "storage_connection"}
    wanted |= {f"TURNAROUND_{name.upper()}" for name in own}
    named = set(re.findall(r"`(TURNAROUND_[A-Z_]+)`", page("settings.md"))) - {
        "TURNAROUND_STORAGE",
        "TURNAROUND_POLICY__NAME",
    }
    assert named == wanted


def test_every_setting_of_the_sample_stands_in_the_settings_page() -> None:
    sample = json.loads((ROOT / "local.settings.sample.json").read_text("utf-8"))
    missing = [name for name in sample["Values"] if f"`{name}`" not in page("settings.md")]
    assert missing == []


def test_every_notice_type_stands_in_its_page() -> None:
    assert set(re.findall(r"^\| `([a-z._]+)` \|", page("notices.md"), re.MULTILINE)) == set(NoticeType)


def test_every_window_key_stands_in_its_page() -> None:
    assert set(re.findall(r"^\| `([a-z_]+)` \|", page("windows.md"), re.MULTILINE)) == set(Window.model_fields)


def test_every_field_of_a_request_stands_in_its_page_and_the_example_is_valid() -> None:
    text = page("requests.md")
    fields = {field.alias or name for name, field in ResetRequest.model_fields.items()}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == fields
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example is not None
    assert isinstance(parse(example[1]), ResetRequest)


def test_every_field_of_a_reset_record_stands_in_its_page() -> None:
    fields = {field.alias or name for name, field in ResetRecord.model_fields.items()}
    assert set(re.findall(r"^\| `(\w+)` \|", page("record.md"), re.MULTILINE)) == fields


def test_every_state_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    missing = [state for state in State if f"`{state}`" not in text]
    assert missing == []


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda path: path.name)
def test_every_link_in_the_docs_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
