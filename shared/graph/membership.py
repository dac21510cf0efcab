"""Which Entra groups hold a device or its primary user: what to ask, and what Graph's answers say. No I/O.

By `checkMemberGroups`, which looks through nested groups too
(https://learn.microsoft.com/graph/api/directoryobject-checkmembergroups). It leaves groups whose members are hidden
from us out of its answer without a word, and what it does with groups that do not exist is not documented. Either would
leave devices unprotected, so each group is read as well.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import batched
from typing import NamedTuple

from shared.domain.devices import DeviceFacts, ManagedDevice
from shared.domain.ids import ManagedDeviceId
from shared.graph import answers
from shared.graph.answers import Reply
from shared.graph.decode import guid
from shared.pipeline.ports import GraphError, GraphRejected

MOST_GROUPS = 20
"""Groups that Graph takes in one checkMemberGroups."""


class Kind(StrEnum):
    """What a question is about."""

    GROUP = "group"
    DEVICE = "device"
    USER = "user"


PERMISSIONS = {
    Kind.GROUP: "GroupMember.Read.All",
    Kind.DEVICE: "GroupMember.Read.All, beside Device.Read.All",
    Kind.USER: "GroupMember.Read.All, beside User.ReadBasic.All",
}


class Question(NamedTuple):
    """Is there such a group; or which of these groups hold this device (by its Entra device id) or user?"""

    kind: Kind
    id: str
    groups: tuple[str, ...] = ()


def questions(devices: Sequence[DeviceFacts], groups: frozenset[str]) -> list[Question]:
    """Give what must be asked. Raises GraphRejected for what is no id of a group."""
    known = sorted(_spellings(groups))
    holders = {holder for facts in devices for holder in _holders(facts.managed)}
    if not known or not holders:
        return []
    parts = list(batched(known, MOST_GROUPS, strict=False))
    asked = [Question(Kind.GROUP, group) for group in known]
    return asked + [Question(kind, one, part) for kind, one in sorted(holders) for part in parts]


def resolve(
    devices: Sequence[DeviceFacts], groups: frozenset[str], replies: Mapping[Question, Reply]
) -> dict[ManagedDeviceId, frozenset[str]]:
    """Give the groups of each device of which all was told. Raises GraphError for an answer that says nothing."""
    if not groups:
        return {facts.managed.id: frozenset() for facts in devices}
    spelled = _spellings(groups)
    held: dict[tuple[Kind, str], set[str] | None] = {}
    for question, reply in replies.items():
        if question.kind is Kind.GROUP:
            _check_group(question.id, reply)
            continue
        found, so_far = _answered(question, reply), held.get((question.kind, question.id), set())
        held[question.kind, question.id] = None if found is None or so_far is None else so_far | found
    resolved: dict[ManagedDeviceId, frozenset[str]] = {}
    for facts in devices:
        of_holders = [held.get(holder) for holder in _holders(facts.managed)]
        told = [one for one in of_holders if one is not None]
        if of_holders and len(told) == len(of_holders):
            resolved[facts.managed.id] = frozenset(spelled[group] for one in told for group in one)
    return resolved


def _spellings(groups: frozenset[str]) -> dict[str, str]:
    """Give the groups as the caller writes them, by the id as Graph writes it."""
    found: dict[str, str] = {}
    for group in sorted(groups):
        if (known := guid(group)) is None:
            raise GraphRejected(f"{group[:60]!r} is not the object id of an Entra group.")
        found[known] = group
    return found


def _holders(managed: ManagedDevice) -> list[tuple[Kind, str]]:
    """Give whose groups are the device's: its own and its primary user's; none where one of them was not told."""
    device, user = guid(managed.entra_device_id), guid(managed.primary_user)
    if device is None or (user is None and managed.primary_user != ""):
        return []
    return [(Kind.DEVICE, device)] + ([(Kind.USER, user)] if user is not None else [])


def _answered(question: Question, reply: Reply) -> set[str] | None:
    """Give the groups that hold the device or user; None for a device that Entra does not have."""
    if reply.status == 404:
        said = answers.words(reply.body).message
        if any(group in said.lower() for group in question.groups):
            raise GraphError(f"Graph could not tell of the groups that hold a {question.kind}. Graph says: {said}")
        return set() if question.kind is Kind.USER else None
    value = reply.body.get("value") if isinstance(reply.body, Mapping) else None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise GraphError(f"Graph answered which groups hold a {question.kind} without a list of groups.")
    return {known for one in value if (known := guid(one)) in question.groups and known is not None}


def _check_group(group: str, reply: Reply) -> None:
    if reply.status == 404:
        raise GraphRejected(f"Entra has no group {group}: take it out of the policy, or set it right.")
    body = reply.body if isinstance(reply.body, Mapping) else {}
    if guid(body.get("id")) != group:
        raise GraphError("Graph answered with another group than the one asked for.")
    if body.get("visibility") == "HiddenMembership":
        raise GraphRejected(
            f"The group {group} hides its members, also from Turnaround: name another group in the policy."
        )
