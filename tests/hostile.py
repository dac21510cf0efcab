"""Values that a hostile sender, or a renamed device, puts into every field; and what must hold all the same.

Properties that use these are plain functions, so that `make fuzz` can run them far longer than `make test` does.
"""

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

PIECES = [
    # obeyed by terminals and logs
    *("\x00", "\x07", "\x08\x08\x08", "\x1b[2J", "\x1b]8;;http://evil.example\x07", "\x9b31m", "\x7f"),
    *("\r", "\r\n", "\t", "\n2026-01-01 ERROR forged", "\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c"),
    # not seen, or seen elsewhere
    *("\u202e", "\u2066", "\u2069", "\u061c", "\u200b", "\u200d", "\ufeff", "\xa0", "\xad", "\u3164", "\u2800"),
    *("\ufe0f", "\U000e0041", "\ufffe", "\U0010ffff", "\ue000", "\ud800", "\udfff", "\ud83d"),
    # the same to some, different to others
    *("\xe9", "e\u0301", "\ufb01", "\u212a", "\u0130", "\xdf", "ss", "\uff21", "\u0661", "A\u030a"),
    # markup
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</style>", "</title>", "-->", "]]>"),
    *("&lt;", "&#x202e;", "[bold]x[/bold]", "[/]", "[link=http://x]x", ":smile:"),
    # templates, formulas, queries, paths, keys
    *("{{7*7}}", "${7*7}", "#{7*7}", "{0.__class__}", "%s%n", "%(x)s", "`id`", "$(id)", ";"),
    *("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "' or RowKey ge '", '"', "'", "*", "[", "?", "#"),
    *("../", "..\\", "/", "\\", "%00", "%2e%2e%2f", "|", "~", "C:\\", "//evil.example"),
    *("null", "true", "NaN", "1e999", "9007199254740993", "00000000-0000-0000-0000-000000000000"),
    # long
    *("A" * 199, "\U0001f600" * 60, "\u4e16" * 300, "\x01" * 200, "a\u0300" * 100, "B" * 5000),
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), min_size=1, max_size=5).map("".join)
TOLD = TEXT.map(lambda text: text.encode("utf-8", "replace").decode()[:900])
"""As Graph's decoder lets it through: without halves of surrogate pairs, and not without end."""

NUMBER = st.sampled_from([0, -1, 2**31, 2**53 + 1, 2**64, 10**400, 1.5, 1e308, True])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DEEP = st.integers(1, 20_000).map(lambda depth: "[" * depth + "]" * depth)
"""JSON text of deep nesting."""

type Body = dict[str, object]


def changed(good: Body, fields: list[str]) -> st.SearchStrategy[Body]:
    """A good object of which some fields are hostile."""
    return st.dictionaries(st.sampled_from(fields) | TEXT, TEXT | JSON, max_size=3).map(lambda bad: good | bad)


def hostile(*strategies: st.SearchStrategy[Any], examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property of hostile values: so many examples in `make test`, as many as the fuzzer wants there."""
    wanted = int(os.environ.get("TURNAROUND_FUZZ_EXAMPLES", examples))

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return settings(max_examples=wanted)(given(*strategies)(test))

    return decorate


OBEYED = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
"""What a terminal would obey or nobody would see, but for the line break that ends a line of ours."""


def assert_plain(text: str) -> None:
    """That a text for people holds nothing that steers a terminal or hides."""
    found = OBEYED.search(text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 60) : found.end() + 60]!r}"


def assert_event(body: str) -> None:
    """That a message is a CloudEvents 1.0 event that any receiver takes (cloudevents.io/spec, Type System and Size)."""
    assert len(body.encode()) <= 48 * 1024  # 64 KiB in base64
    event = json.loads(body)
    for name in ("id", "source", "type", "specversion", "subject", "time"):
        value = event[name]
        assert isinstance(value, str), name
        assert value, name
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]", value), name


class _Page(HTMLParser):
    """Collects what is markup in a page, as a browser would see it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.open += [] if tag == "meta" else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")


_TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "strong", "span", "bdi"}
_TAGS |= {"table", "tr", "th", "td", "ol", "ul", "li"}
_ATTRIBUTES = {("html", "lang"), *(("meta", name) for name in ("charset", "http-equiv", "content", "name"))}
_ATTRIBUTES |= {(tag, "class") for tag in ("div", "p", "span")}


def assert_page(text: str) -> list[str]:
    """That a page has the markup of its template and no other, well nested; gives its texts as they are read."""
    assert_plain(text)
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.tags <= _TAGS
    assert page.attributes <= _ATTRIBUTES
    assert text.count("<style>") == text.count("</style>") == 1
    return page.text
