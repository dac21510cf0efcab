"""Which devices a reference names, and what must still be asked to know it: no I/O.

`resolve` looks into a Book of what Graph has told so far. What it misses there, it notes in the book as a question; the
gateway asks, and resolves anew, until nothing is missing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from shared.domain.devices import (
    AutopilotIdentity,
    DeviceFacts,
    DeviceReference,
    EntraDevice,
    Finding,
    ManagedDevice,
    ReferenceKind,
)
from shared.graph.decode import guid

type Record = ManagedDevice | AutopilotIdentity | EntraDevice

MOST_ASKED_SINGLY = 100
"""Questions to one collection up to which asking beats listing: five `$batch` of 20, against at least a page of 1,000
records for every 1,000 devices of the tenant."""

_NO_SERIALS = frozenset(
    {
        "",
        "0",
        "none",
        "null",
        "n/a",
        "na",
        "unknown",
        "invalid",
        "default string",
        "not applicable",
        "not available",
        "not specified",
        "serial number",
        "system serial number",
        "chassis serial number",
        "to be filled by o.e.m.",
        "to be filled by o.e.m",
        "o.e.m.",
        "oem",
        "123456789",
        "1234567890",
    }
)
"""What makers leave in the firmware where a serial number should be."""


class Collection(StrEnum):
    """A collection of Graph's."""

    MANAGED = "managedDevices"
    AUTOPILOT = "windowsAutopilotDeviceIdentities"
    ENTRA = "devices"


class Question(NamedTuple):
    """Which records of a collection have this value in this property?"""

    collection: Collection
    by: str
    value: str


def folded(value: str | None) -> str:
    """Give the form in which serial numbers, names and ids are compared: without blanks around it or case."""
    return (value or "").strip().casefold()


def identifies(serial_number: str | None) -> bool:
    """Tell whether a serial number identifies a machine; many say only that the maker wrote none."""
    serial = folded(serial_number)
    return serial not in _NO_SERIALS and len(set(serial)) > 1


def keys(record: Record) -> dict[str, str]:
    """Give the properties by which a record can be asked for, each in the form in which it is compared."""
    found: dict[str, str | None]
    if isinstance(record, ManagedDevice):
        found = {
            "id": record.id,
            "azureADDeviceId": record.entra_device_id,
            "serialNumber": folded(record.serial_number),
            "deviceName": folded(record.name),
        }
    elif isinstance(record, AutopilotIdentity):
        found = {
            "serialNumber": folded(record.serial_number),
            "managedDeviceId": record.managed_device_id,
            "azureActiveDirectoryDeviceId": record.entra_device_id,
            "groupTag": record.group_tag,
        }
    else:
        found = {"deviceId": record.device_id}
    return {by: value for by, value in found.items() if value}


def answers(record: Record, question: Question) -> bool:
    """Tell whether a record is one that the question asks for: Graph may have ignored a filter."""
    value = question.value if question.by == "groupTag" else folded(question.value)
    return keys(record).get(question.by) == value


class Book:
    """What Graph has told so far, and what is still to be asked."""

    def __init__(self) -> None:
        self.missing: set[Question] = set()
        self.to_list: set[Collection] = set()
        """Collections of which only a full list answers."""
        self._answered: dict[Question, tuple[Record, ...]] = {}
        self._listed: set[Collection] = set()
        self._index: defaultdict[tuple[Collection, str], dict[str, Record | dict[str, Record]]] = defaultdict(dict)

    def learn(self, question: Question, records: Iterable[Record]) -> None:
        """Note Graph's answer to one question, leaving out what was not asked for."""
        found = {_identity(record): record for record in records if answers(record, question)}
        self._answered[question] = tuple(found.values())
        for record in found.values():
            self._note(question.collection, record)

    def learn_list(self, collection: Collection, records: Iterable[Record]) -> None:
        """Note a list of a whole collection; it may be incomplete."""
        self._listed.add(collection)
        for record in records:
            self._note(collection, record)

    def _note(self, collection: Collection, record: Record) -> None:
        for by, value in keys(record).items():
            index = self._index[collection, by]
            match index.get(value):
                case None:
                    index[value] = record  # a dict for each would double what a large tenant takes
                case dict() as several:
                    several[_identity(record)] = record
                case one:
                    index[value] = {_identity(one): one, _identity(record): record}

    def known(self, question: Question) -> tuple[Record, ...]:
        """Give what the records at hand show, which may not be all."""
        value = question.value if question.by == "groupTag" else folded(question.value)
        found = self._index[question.collection, question.by].get(value)
        if found is None:
            return ()
        return tuple(found.values()) if isinstance(found, dict) else (found,)

    def get(self, question: Question) -> tuple[Record, ...]:
        """Give the records asked for; what is not known yet is noted as missing, and nothing given for now."""
        if question in self._answered:
            return self._answered[question]
        listed = question.collection in self._listed
        if question.by == "groupTag":  # contains(groupTag, ..) is not to be relied upon
            if not listed:
                self.to_list.add(question.collection)
            return self.known(question) if listed else ()
        # A name is always asked for directly: a second device of that name, missing from a list, would be reset too.
        enough = question.by in ("id", "deviceId") or (listed and question.by != "deviceName")
        if enough and (found := self.known(question)):
            return found
        self.missing.add(question)
        return ()

    def managed(self, by: str, value: str) -> list[ManagedDevice]:
        """Give managed devices, as `get` does."""
        return [r for r in self.get(Question(Collection.MANAGED, by, value)) if isinstance(r, ManagedDevice)]

    def autopilot(self, by: str, value: str) -> list[AutopilotIdentity]:
        """Give Autopilot device identities, as `get` does."""
        return [r for r in self.get(Question(Collection.AUTOPILOT, by, value)) if isinstance(r, AutopilotIdentity)]

    def entra(self, device_id: str) -> EntraDevice | None:
        """Give the Entra device, as `get` does."""
        found = self.get(Question(Collection.ENTRA, "deviceId", device_id))
        return next((record for record in found if isinstance(record, EntraDevice)), None)

    def identity_of(self, device: ManagedDevice) -> AutopilotIdentity | None:
        """Give the Autopilot device identity linked to a device: by the device's id, its Entra id, or its serial."""
        links: list[tuple[str, str]] = [("managedDeviceId", device.id)]
        if device.entra_device_id:
            links.append(("azureActiveDirectoryDeviceId", device.entra_device_id))
        if identifies(device.serial_number):
            links.append(("serialNumber", device.serial_number or ""))
        for by, value in links:
            known = self.known(Question(Collection.AUTOPILOT, by, value))
            if identities := sorted((r for r in known if isinstance(r, AutopilotIdentity)), key=lambda r: r.id):
                return identities[0]
        if links[-1][0] == "serialNumber":
            self.autopilot(*links[-1])
        elif Collection.AUTOPILOT not in self._listed:
            self.to_list.add(Collection.AUTOPILOT)  # Graph filters identities by nothing else that this device has
        return None

    def plan(self, *, lists_allowed: bool) -> tuple[set[Collection], list[Question]]:
        """Say which collections to list and which questions to ask, and forget them as missing.

        Few questions are asked singly. Where many are missing, the collection is listed first, once; what the list does
        not show is then asked for.
        """
        to_list, missing = set(self.to_list), set(self.missing)
        self.to_list.clear()
        self.missing.clear()
        for collection in Collection if lists_allowed else ():
            count = sum(q.collection is collection and q.by != "deviceName" for q in missing)
            if count > MOST_ASKED_SINGLY and collection not in self._listed:
                to_list.add(collection)
        ask = [q for q in missing if q.collection not in to_list or q.by == "deviceName"]
        return to_list, sorted(ask)


def _identity(record: Record) -> str:
    return record.device_id if isinstance(record, EntraDevice) else record.id


def resolve(reference: DeviceReference, book: Book, read_at: datetime) -> Finding:
    """Give what a reference leads to. Only final once the book misses nothing."""
    value = reference.value.strip()
    devices: list[ManagedDevice] = []
    not_enrolled: list[AutopilotIdentity] = []
    match reference.kind:
        case ReferenceKind.INTUNE_ID:
            if wanted := guid(value):
                devices = book.managed("id", wanted)
        case ReferenceKind.ENTRA_DEVICE_ID:
            if wanted := guid(value):
                devices = book.managed("azureADDeviceId", wanted)
        case ReferenceKind.NAME:
            if value:
                devices = book.managed("deviceName", value)
        case ReferenceKind.SERIAL_NUMBER:
            if identifies(value):
                devices = book.managed("serialNumber", value)
                for identity in book.autopilot("serialNumber", value) if not devices else ():
                    # A list that stood in for the filter may have left the device out; its registration leads to it.
                    enrolled = _linked(identity, book)
                    devices += enrolled
                    not_enrolled += [] if enrolled else [identity]
        case ReferenceKind.GROUP_TAG:
            if value:
                for identity in book.autopilot("groupTag", value):
                    enrolled = _linked(identity, book)
                    if not enrolled and identity.serial_number and identifies(identity.serial_number):
                        enrolled = book.managed("serialNumber", identity.serial_number)
                    devices += enrolled
                    not_enrolled += [] if enrolled else [identity]
    unique = {device.id: device for device in devices}
    return Finding(
        devices=tuple(_facts(device, book, read_at) for device in unique.values()),
        not_enrolled=tuple(not_enrolled),
    )


def _linked(identity: AutopilotIdentity, book: Book) -> Sequence[ManagedDevice]:
    """Give the managed device that an identity names, unless it is gone or is, by its serial, another machine."""
    if identity.managed_device_id is None:
        return []
    return [
        device
        for device in book.managed("id", identity.managed_device_id)
        if not (identifies(device.serial_number) and identifies(identity.serial_number))
        or folded(device.serial_number) == folded(identity.serial_number)
    ]


def _facts(device: ManagedDevice, book: Book, read_at: datetime) -> DeviceFacts:
    return DeviceFacts(
        managed=device,
        entra=book.entra(device.entra_device_id) if device.entra_device_id else None,
        autopilot=book.identity_of(device),
        read_at=read_at,
    )
