"""Entra's groups and who is in them: through other groups too, and shown late.

Graph does not say how long a change of members takes to be seen everywhere; for a while one read shows it and the next
does not (https://learn.microsoft.com/entra/architecture/architecture, consistency of the directory).
"""

import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from sandbox.tenant.devices import ID_NAMESPACE, Fleet, User

HIDDEN = "HiddenMembership"


class MemberError(LookupError):
    """A name that leads to no device, user or group. The message names it."""


@dataclass(slots=True)
class Group:
    """One group, by the object ids of its members: devices, users, groups."""

    id: str
    name: str
    hidden: bool = False
    """Its members are shown only to whoever may read hidden ones."""
    members: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    """The members before the last change."""
    changed_at: datetime | None = None

    def shown(self, now: datetime, lag: timedelta, rng: random.Random) -> frozenset[str]:
        """The members as one read shows them."""
        settled = self.changed_at is None or now >= self.changed_at + lag
        return self.members if settled or rng.random() < 0.5 else self.before


@dataclass(slots=True)
class Groups:
    """All groups of a tenant, and the users that it has."""

    groups: dict[str, Group] = field(default_factory=dict)
    """By id."""
    users: dict[str, str] = field(default_factory=dict)
    """Names of the users that somebody or something names, by object id."""
    deleted: frozenset[str] = frozenset()
    """Names in lower case of users that Entra knows no longer, whoever names them."""
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Object ids of the Entra devices by their serial number."""

    @classmethod
    def of(cls, fleet: Fleet, deleted_users: Iterable[str] = ()) -> "Groups":
        """No groups yet; the fleet's devices and users, less those that were deleted."""
        found = [device.intune.user for device in fleet.devices if device.intune and device.intune.user]
        found += [device.next_user for device in fleet.devices if device.next_user]
        users = {user.id.lower(): user.name for user in found}
        devices: dict[str, list[str]] = {}
        for device in fleet.devices:
            if device.records.entra_device is not None:
                devices.setdefault(device.serial, []).append(str(device.records.entra_device.get("id")).lower())
        return cls(users=users, deleted=frozenset(name.lower() for name in deleted_users), devices=devices)

    def knows(self, user: str) -> bool:
        """Whether Entra has the user with this object id."""
        return user in self.users and self.users[user].lower() not in self.deleted

    def add(self, scenario: str, name: str, group_id: str | None = None, *, hidden: bool = False) -> None:
        """Add an empty group; its id follows from the names, unless one is given."""
        made = str(uuid.uuid5(ID_NAMESPACE, f"{scenario}/group/{name}")) if group_id is None else group_id.lower()
        self.groups[made] = Group(made, name, hidden)

    def change(self, name: str, add: Iterable[str], remove: Iterable[str], now: datetime | None = None) -> Group:
        """Change a group's members, each `device:SERIAL` (with * and ?), `user:NAME` or `group:NAME`.

        Without a time, as if it had always been so. Raises MemberError.
        """
        group = self._named(name)
        after = group.members.union(*map(self._ids, add)) - set().union(*map(self._ids, remove))
        group.before = after if now is None else group.members
        group.members, group.changed_at = after, now
        return group

    def holding(self, member: str, now: datetime, lag: timedelta, rng: random.Random) -> set[str]:
        """Ids of the groups that hold a device or user, directly or through other groups."""
        shown = {group.id: group.shown(now, lag, rng) for group in self.groups.values()}
        held: set[str] = set()
        reached = {member}
        while reached:
            reached = {id_ for id_, members in shown.items() if id_ not in held and not members.isdisjoint(reached)}
            held |= reached
        return held

    def _named(self, name: str) -> Group:
        for group in self.groups.values():
            if group.name == name:
                return group
        raise MemberError(f"there is no group {name!r}")

    def _ids(self, member: str) -> set[str]:
        kind, _, name = member.partition(":")
        if kind == "group":
            return {self._named(name).id}
        if kind == "user" and name:
            found = {id_ for id_, known in self.users.items() if known.lower() == name.lower()}
            if not found:
                new = User.named(name)
                self.users[new.id] = new.name
                found = {new.id}
            return found
        found = {id_ for serial, ids in self.devices.items() if fnmatchcase(serial, name) for id_ in ids}
        if kind != "device" or not found:
            raise MemberError(f"{member!r} leads to nobody: give device:SERIAL, user:NAME or group:NAME")
        return found
