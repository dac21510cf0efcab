"""Lab windows of a day: when each opens, and that each opening becomes one request, its own, and no other one.

The times are drawn, and the lines of cron are made from them: so what is due is known without reading cron.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

from sandbox.memory import MemoryTable
from sandbox.tenant.devices import Json
from shared.domain.ids import RequestId
from shared.state import rows
from shared.state.table import Change, ChangeKind

ON_ITS_WAY = timedelta(minutes=3)
"""A commit may be on its way for so long."""


@dataclass(frozen=True)
class Opening:
    """One opening of a lab window."""

    window: str
    opens: datetime
    closes: datetime
    requester: str
    devices: Sequence[Json]
    """As the request names them."""

    @property
    def request(self) -> str:
        return f"window:{self.window}:{self.opens:%Y%m%dT%H%MZ}"


@dataclass
class Openings:
    """Watches the openings of one day."""

    due: Sequence[Opening] = ()
    opened: Counter[str] = field(default_factory=Counter)
    """By request id."""
    came: set[str] = field(default_factory=set)
    """Ids of those whose request was taken in, or was set aside, of which people are told."""

    def committed(
        self, changes: Sequence[Change], table: MemoryTable, skew: timedelta, now: datetime
    ) -> Iterator[tuple[str, str]]:
        """The rules that a transaction breaks, each with the request concerned."""
        for change in changes:
            kind, request = change.key.split("|")[:2]
            if kind not in ("window", "request", "part") or not request.startswith("window:"):
                continue
            if change.kind is ChangeKind.DELETE:
                continue
            opening = next((one for one in self.due if one.request == request), None)
            if opening is None:
                yield f"there is no such opening of a lab window: {change.key}", f"request:{request}"
                continue
            if kind == "window":
                self.opened[request] += 1
                if self.opened[request] > 1:
                    yield f"a lab window was opened again: {request}", f"request:{request}"
                if not opening.opens - skew <= now <= opening.closes + skew + ON_ITS_WAY:
                    yield f"a lab window was opened at another time than its own: {request}", f"request:{request}"
                continue
            self.came.add(request)
            if table.row(rows.window_key(RequestId(request))) is None:
                yield f"a request uses the id of a lab window that was not opened: {request}", f"request:{request}"
            elif kind == "part" and not _is_its_own(opening, rows.unpack(change.values["body"])):
                yield f"a request of others uses the id of a lab window: {request}", f"request:{request}"

    def ticked(self, at: datetime) -> Iterator[tuple[str, str]]:
        """The rules that do not hold after a tick of the timer that went well, at this time of its instance's clock."""
        for opening in self.due:
            if opening.opens <= at < opening.closes and not self.opened[opening.request]:
                yield f"a tick left a lab window shut: {opening.request}", f"request:{opening.request}"

    def ended(self) -> Iterator[tuple[str, str]]:
        """The rules that do not hold once everything has ended."""
        for request in self.opened:
            if request not in self.came:
                yield f"a lab window was opened, and its request never came: {request}", f"request:{request}"


def _is_its_own(opening: Opening, body: str) -> bool:
    given = cast("Json", json.loads(body))
    return given["requester"] == opening.requester and given["devices"] == list(opening.devices)
