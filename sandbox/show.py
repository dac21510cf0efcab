"""What a run looks like while it runs: a live table on a terminal, a line a change where there is none."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sandbox.scenario import DeviceEnd, Scenario
from shared.domain.states import State

STYLES = {
    State.READY: "green",
    State.REFUSED: "yellow",
    State.ATTENTION: "bold magenta",
    State.FAILED: "red",
    State.CANCELLED: "dim",
}
ENDS = (State.READY, State.REFUSED, State.FAILED, State.CANCELLED, State.ATTENTION)
MARGIN = 7
"""Lines of a terminal that the table's own frame takes."""


@dataclass(frozen=True)
class Row:
    """One device, or one reference that leads to none, as it stands."""

    key: tuple[str, str]
    name: str
    request: str
    state: State
    since: timedelta
    """In simulated time, after the start."""
    why: str = ""


class Screen:
    """Shows rows as they change. A run says how things stand as often as it likes."""

    def __init__(self, console: Console, scenario: Scenario) -> None:
        self._console = console
        self._scenario = scenario
        self._seen: dict[tuple[str, str], State] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, rows: Sequence[Row], elapsed: timedelta) -> None:
        """Show how everything stands."""
        if self._live is not None:
            self._live.update(self._picture(rows, elapsed), refresh=True)
        else:
            for row in rows:
                if self._seen.get(row.key) is not row.state:
                    self._say(row)
        self._seen = {row.key: row.state for row in rows}

    def say(self, words: str) -> None:
        """Say something that is no change of a device."""
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _say(self, row: Row) -> None:
        before = self._seen.get(row.key)
        move = f"{before} > {row.state}" if before is not None else f"{row.state}"
        self.say(f"{clock(row.since)}  {row.name:20}  {move}{'  ' + row.why if row.why else ''}")

    def _picture(self, rows: Sequence[Row], elapsed: timedelta) -> RenderableType:
        counts = Counter(row.state for row in rows)
        head = Text.assemble(
            ("Turnaround demo ", "bold"),
            f"{self._scenario.scenario.name}   simulated time ",
            (clock(elapsed), "bold"),
            f", {self._scenario.speed:g} times as fast as life\n",
            *(part for state, count in _in_order(counts) for part in ((f"{count} {state}", style(state)), "   ")),
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title, least in (("device", 12), ("request", 8), ("state", 10), ("since", 7), ("why", 4)):
            table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=least)
        room = max(5, self._console.height - MARGIN)
        moving_first = sorted(rows, key=lambda row: (row.state in ENDS, -row.since))
        for row in moving_first[:room]:
            state = Text(row.state, style=style(row.state))
            table.add_row(row.name, row.request, state, clock(row.since), Text(row.why, style="dim"))
        left = len(rows) - room
        return Group(head, table, Text(f"... and {left} more", style="dim")) if left > 0 else Group(head, table)


def _in_order(counts: Mapping[State, int]) -> Iterator[tuple[State, int]]:
    return ((state, counts[state]) for state in State if counts.get(state))


def style(state: State | DeviceEnd | str) -> str:
    """How a state is coloured."""
    try:
        return STYLES.get(State(state), "cyan")
    except ValueError:
        return ""


def clock(span: timedelta) -> str:
    """A span as h:mm:ss."""
    seconds = max(0, round(span.total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
