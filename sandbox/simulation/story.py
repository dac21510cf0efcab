"""Of all that happened on a day, what tells the story of one device, of one request, or of the last minutes."""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta

from sandbox.simulation.trouble import Noted
from shared.domain.reset import Event

BROKEN = "RULE BROKEN:"
AROUND = timedelta(seconds=10)
"""Trouble so close to something that concerns it is part of a story."""
LAST = 60
"""Lines of a story of nothing in particular."""


def told(log: Sequence[Noted], about: str) -> list[Noted]:
    """What concerns a device (its Intune id), a request (`request:ID`), or nothing (""): see `day.Outcome.story`."""
    if not about:
        broken = (number for number, noted in enumerate(log) if noted.text.startswith(BROKEN))
        end = next(broken, len(log) - 1) + 1
        return list(log[max(0, end - LAST) : end])
    whom = {about} | {_request(noted) for noted in log if noted.who == about}
    mine = {number for number, noted in enumerate(log) if noted.who in whom or _request(noted) == about}
    times = sorted(log[number].at for number in mine)
    return [noted for number, noted in enumerate(log) if number in mine or _belongs(noted, about, times)]


def _request(noted: Noted) -> str:
    return f"request:{noted.what.request}" if isinstance(noted.what, Event) and noted.what.request else "-"


def _belongs(noted: Noted, about: str, times: Sequence[datetime]) -> bool:
    """What concerns everybody; and what went wrong close by."""
    if not noted.who or about in noted.text:
        return True
    if not noted.who.startswith("instance"):
        return False
    position = bisect_left(times, noted.at - AROUND)
    return position < len(times) and times[position] <= noted.at + AROUND
