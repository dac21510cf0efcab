"""Request limits as the tenant counts them: sliding windows; a refused call counts as well.

Sources: https://learn.microsoft.com/graph/throttling-limits (Intune devices; identity and access) and
https://learn.microsoft.com/graph/throttling (usage goes on being counted while a client is throttled).
"""

from collections import deque
from datetime import datetime, timedelta
from math import ceil


class Window:
    """At most `limit` calls in any `span`."""

    def __init__(self, limit: int, span: timedelta) -> None:
        self.limit = limit
        self.span = span
        self.refused = 0
        """Calls that were too many so far."""
        self._times: deque[datetime] = deque()

    def take(self, now: datetime, *, count_refused: bool = True) -> int | None:
        """Count a call. None: it may go; else after how many whole seconds one might."""
        while self._times and self._times[0] <= now - self.span:
            self._times.popleft()
        full = len(self._times) >= self.limit
        if not full or count_refused:
            self._times.append(now)
        if not full:
            return None
        self.refused += 1
        freed_by = self._times[max(0, len(self._times) - self.limit)] if self.limit else now
        return max(1, ceil((freed_by + self.span - now).total_seconds()))


class Limits:
    """The windows of one app in one tenant."""

    def __init__(self, writes: int, calls: int) -> None:
        span = timedelta(seconds=20)
        self.writes = Window(writes, span)
        self.calls = Window(calls, span)
        self.directory = Window(3500, timedelta(seconds=10))

    def intune(self, now: datetime, *, write: bool) -> int | None:
        """Count a call to Intune, a write against both limits."""
        waits = [self.calls.take(now)]
        if write:
            waits.append(self.writes.take(now))
        return max((wait for wait in waits if wait is not None), default=None)

    def entra(self, now: datetime) -> int | None:
        """Count a directory read as one resource unit of a small tenant."""
        return self.directory.take(now)
