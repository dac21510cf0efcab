"""The dialects of Graph that are plausible: tenants, or devices of one tenant, that show the same turnover differently.

What is asked of Turnaround in each of them is here too: how a device must end, as far as it can be proven.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from sandbox.tenant.devices import Device, Json
from sandbox.tenant.quirks import ACTION_NAMES

type Row = Mapping[str, str]
"""A dialect: a value of each dimension."""
type End = tuple[str, str | None]
"""A state, and the code of its reason."""

QUIRKS: Mapping[str, Mapping[str, Json]] = {
    "results": {
        "done at pickup": {"action_done_at": "pickup"},
        "done at end": {"action_done_at": "end"},
        "always empty": {"action_results": "always_empty"},
    },
    "state": {state: {"management_state": state} for state in ("moves", "stuck", "never")},
    "user": {
        "none": {"primary_user_cleared": "end"},  # the devices have none to begin with
        **{when: {"primary_user_cleared": when} for when in ("trigger", "pickup", "end", "late")},
    },
    "name": {name: {"action_name": name} for name in (*ACTION_NAMES, "varies")},
    "clock": {offset: {"clock_offset": offset} for offset in ("PT0S", "-PT4M", "PT4M")},
    "stale": {lag: {"stale_reads": lag} for lag in ("PT0S", "PT1M", "PT4M")},
    "throttled": {
        "never": {},
        "with Retry-After": {"p429": 0.05, "retry_after": "present"},
        "without Retry-After": {"p429": 0.05, "retry_after": "missing"},
    },
    "speed": {"quick": {}, "slow": {"answers_within": "PT30S"}},
    "lists": {
        "whole": {"list_seconds_only": False},
        "cut to seconds": {"list_seconds_only": True},
        "incomplete": {"list_incomplete": 0.2, "page_size": 5},
        "old": {"stale_lists": "PT5M"},
        "without users": {"list_hides": True},
    },
    "filters": {"ignored": {"unsupported_filter_ignored": True}, "honoured": {"filter_support": "schema"}},
    "old results": {"none": {"old_action_results": False}, "piled up": {"old_action_results": True}},
    "faults": {
        "none": {},
        "503": {"p503": 0.03},
        "503 that acted": {"p503_acted": 0.02},
        "lost answers": {"lost_answer": 0.02},
    },
}
"""The dimensions, their values, and the quirks that each value is made of, as a scenario has them."""

DIMENSIONS: Mapping[str, Sequence[str]] = {dimension: tuple(values) for dimension, values in QUIRKS.items()}
EVIDENCE = ("results", "state", "user")
"""What proof is made of: every combination of these is a dialect of its own."""


def quirks(row: Row) -> Json:
    """The quirks of a dialect, or of some dimensions of it."""
    return {name: value for dimension in row for name, value in QUIRKS[dimension][row[dimension]].items()}


def covering(dimensions: Mapping[str, Sequence[str]], strong: Sequence[str], strength: int) -> list[Row]:
    """Rows in which every two values of two dimensions meet, and every `strength` values of the `strong` ones.

    Greedy: each row begins with a combination that is still missing, and takes for every other dimension the value
    that brings the most missing ones.
    """
    missing = dict.fromkeys(
        [
            *_combinations(dimensions, itertools.combinations(strong, strength)),
            *_combinations(dimensions, itertools.combinations(dimensions, 2)),
        ]
    )
    rows: list[Row] = []
    while missing:
        row = dict(next(iter(missing)))
        for name in dimensions:
            if name not in row:
                row[name] = max(
                    dimensions[name],
                    key=lambda value: sum(_fits(one, {**row, name: value}) for one in missing if (name, value) in one),
                )
        rows.append(row)
        missing = {one: None for one in missing if not set(one) <= row.items()}
    return rows


def _combinations(
    dimensions: Mapping[str, Sequence[str]], names: Iterator[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, str], ...]]:
    for some in names:
        for values in itertools.product(*(dimensions[name] for name in some)):
            yield tuple(zip(some, values, strict=True))


def _fits(combination: tuple[tuple[str, str], ...], row: Row) -> bool:
    return all(row.get(name, value) == value for name, value in combination)


DIALECTS = covering(DIMENSIONS, EVIDENCE, len(EVIDENCE))


def named(row: Row) -> str:
    """What its proof is made of, as one word."""
    return "-".join(row[dimension].replace(" ", "_") for dimension in EVIDENCE)


def provable(row: Row) -> bool:
    """Whether anything that this dialect shows can tell a device that was reset from one that was merely off.

    Not so where all that it shows may be of the order itself, or of its taking: no primary user who could go and an
    action that is done at the pick-up or never shown; or no action, and a user who goes at the order or the pick-up;
    unless `managementState` moves, and goes back late.
    """
    if row["state"] == "moves":
        return True
    if row["user"] == "none":
        return row["results"] == "done at end"
    return row["results"] != "always empty" or row["user"] not in ("trigger", "pickup")


def expected(row: Row, kind: str) -> End:
    """How a device must end, as far as Turnaround can take it without a person.

    `kind`: it stays "off", it cannot be reset ("winre"), it says that it was and was not ("silent"), it is stuck on the
    way ("cut"); any other is reset in the end.
    """
    if kind == "off":
        return "attention", "not_checked_in"
    if kind == "cut":
        return "attention", "reset_too_long"
    if kind == "winre" and (row["results"] != "always empty" or row["state"] == "moves"):
        return "failed", "reset_failed_on_device"  # else nothing shows the failure
    if kind in ("winre", "silent") or not provable(row):
        return "attention", "not_proven"
    return "ready", None


def selector(device: Device, row: Row) -> Json:
    """What a request calls a device: each by another kind of name.

    Where a list may leave a device out, or its user, so may the answer to a filter; only its own id leads to it for
    certain.
    """
    managed = device.records.managed_device or {}
    kinds: list[Json] = [
        {"intuneId": managed["id"]},
        {"serialNumber": device.serial},
        {"name": device.name},
        {"entraDeviceId": managed["azureADDeviceId"]},
    ]
    return kinds[0 if row["lists"] in ("incomplete", "without users") else device.ordinal % len(kinds)]
