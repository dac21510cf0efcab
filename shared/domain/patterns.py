"""Names as people write them in a policy: with * and ?, in any case."""

import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache


def folded(name: str) -> str:
    """The name in the form in which names are compared: without blanks around it, in one case and one spelling."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def matching(names: Iterable[str | None], entries: frozenset[str]) -> str | None:
    """The entry that one of the names matches, the first by alphabet where several do; None where none does.

    Only * and ? are special: a bracket, which names may have, is that bracket.
    """
    known = {folded(name) for name in names if name}
    exact, patterns = _read(entries)
    hits = [exact[name] for name in known if name in exact]
    hits += [entry for entry, pattern in patterns if any(fnmatchcase(name, pattern) for name in known)]
    return min(hits, default=None)


@lru_cache(maxsize=64)
def _read(entries: frozenset[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The entries that are names, by what they are compared as, and those with patterns: a list may have thousands, and
    is held against thousands of devices."""
    exact: dict[str, str] = {}
    patterns: list[tuple[str, str]] = []
    for entry in sorted(entries, reverse=True):
        wanted = folded(entry)
        if "*" in wanted or "?" in wanted:
            patterns.append((entry, wanted.replace("[", "[[]")))
        else:
            exact[wanted] = entry
    return exact, patterns
