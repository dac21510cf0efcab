"""How often transactions meet a conflict, by the row of the budget that all of them share."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared.state.table import Change, Conflict

ROWS = ("budget|pace|writes", "budget|orders")


@contextmanager
def counted(changes: Sequence[Change], counts: Counter[str]) -> Iterator[None]:
    """Count the transaction that is committed inside, and the conflict that it meets."""
    kinds = ["", *{f"{change.key} " for change in changes if change.key.startswith("budget|")}]
    counts.update(f"{kind}commits" for kind in kinds)
    try:
        yield
    except Conflict:
        counts.update(f"{kind}conflicts" for kind in kinds)
        raise


def percents(counts: Counter[str]) -> list[float]:
    """Of the transactions with each of ROWS, and of all, those that met a conflict."""
    kinds = [*(f"{row} " for row in ROWS), ""]
    return [100 * counts[f"{kind}conflicts"] / max(1, counts[f"{kind}commits"]) for kind in kinds]
