"""Devices found in saved answers of Graph instead of Graph: the three lists, as files in a folder.

Each list is `managedDevices.json`, `devices.json` or `windowsAutopilotDeviceIdentities.json`, as Graph returns it:
`{"value": [...]}`. Further pages are `managedDevices-2.json` and so on, or the file is an array of pages.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from shared.domain.devices import DeviceReference, Finding, ManagedDevice
from shared.graph import decode, finding
from shared.graph.decode import JsonObject, UnreadableRecordError
from shared.graph.finding import Book, Collection, Record

_DECODERS: Mapping[Collection, Callable[[JsonObject], Record]] = {
    Collection.MANAGED: decode.managed_device,
    Collection.AUTOPILOT: decode.autopilot_identity,
    Collection.ENTRA: decode.entra_device,
}


class ExportError(Exception):
    """The folder is no usable export. The message names the file and the fault, for people."""


class Export:
    """What an export shows. An export may be incomplete: that it does not show something proves nothing."""

    def __init__(self, folder: Path) -> None:
        """Read the whole export. Raises ExportError."""
        self.left_out: list[str] = []
        """Records that do not say which they are, in words."""
        self.taken_at: datetime | None = None
        """The latest check-in that it shows: it was taken after that. None: it shows none."""
        self._book = Book()
        missing = [f"{one}.json" for one in Collection if not (folder / f"{one}.json").is_file()]
        if missing:
            raise ExportError(f"{folder} is no whole export: there is no {' and no '.join(missing)}.")
        for collection in Collection:
            self._book.learn_list(collection, list(self._records(folder, collection)))

    def find(self, references: Sequence[DeviceReference], read_at: datetime) -> Mapping[DeviceReference, Finding]:
        """What each reference leads to, as `Intune.find` tells it of Graph."""
        while True:
            findings = {reference: finding.resolve(reference, self._book, read_at) for reference in references}
            _, asked = self._book.plan(lists_allowed=False)
            if not asked:
                return findings
            for question in asked:
                self._book.learn(question, self._book.known(question))

    def _records(self, folder: Path, collection: Collection) -> Iterator[Record]:
        for file, number, row in _rows(folder, collection):
            try:
                record = _DECODERS[collection](row)
            except UnreadableRecordError as error:
                self.left_out.append(f"{file}, record {number}, is left out: {error}.")
                continue
            if isinstance(record, ManagedDevice) and record.last_sync is not None:
                self.taken_at = max(self.taken_at or record.last_sync, record.last_sync)
            yield record


def _rows(folder: Path, collection: Collection) -> Iterator[tuple[str, int, JsonObject]]:
    """Every record with its file and number; incomplete lists are refused as far as they show it."""
    pages = [(path.name, page) for path in _files(folder, collection) for page in _pages(path)]
    total = 0
    for index, (file, page) in enumerate(pages):
        _check_context(file, page, collection)
        value = page.get("value")
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise ExportError(f'{file} is not an answer of Graph\'s, {{"value": [...]}} with an object each.')
        if page.get("@odata.nextLink") and index == len(pages) - 1:
            raise ExportError(
                f"{file} is incomplete: Graph's list goes on (@odata.nextLink). Save its next page as "
                f"{collection}-{index + 2}.json, or all pages as one JSON array."
            )
        for number, row in enumerate(value, start=1):
            total += 1
            yield file, number, row
    counts = [count for _, page in pages if isinstance(count := page.get("@odata.count"), int)]
    if counts and max(counts) > total:
        raise ExportError(f"{collection}.json is incomplete: Graph counted {max(counts)} records, here are {total}.")


def _files(folder: Path, collection: Collection) -> list[Path]:
    """The list's files in the order of their pages."""
    pages = {1: folder / f"{collection}.json"}
    for path in folder.glob(f"{collection}-*.json"):
        suffix = path.stem.removeprefix(f"{collection}-")
        if not suffix.isdecimal() or int(suffix) in pages:
            raise ExportError(f"{path.name} is no page: they are named {collection}-2.json, {collection}-3.json, ...")
        pages[int(suffix)] = path
    for number in range(2, len(pages) + 1):
        if number not in pages:
            raise ExportError(f"{folder} is no whole export: there is no {collection}-{number}.json.")
    return [pages[number] for number in sorted(pages)]


def _pages(path: Path) -> list[JsonObject]:
    try:
        content = json.loads(path.read_bytes())  # bytes: PowerShell writes UTF-16, with a mark that json knows
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path.name} is not JSON: {error}.") from None
    pages = content if isinstance(content, list) else [content]
    if not pages or not all(isinstance(page, dict) for page in pages):
        raise ExportError(f'{path.name} is not an answer of Graph\'s, {{"value": [...]}}, nor an array of such pages.')
    return pages


def _check_context(file: str, page: JsonObject, collection: Collection) -> None:
    """Refuse the answer to another question, where the page says what it answers (`@odata.context`)."""
    error = page.get("error")
    if isinstance(error, dict):
        raise ExportError(f"{file} holds an error of Graph's instead of a list: {str(error.get('code'))[:60]}.")
    context = page.get("@odata.context")
    if isinstance(context, str) and "#" in context:
        listed = context.rpartition("#")[2].partition("(")[0].rpartition("/")[2]
        if listed not in (collection, "Collection"):
            raise ExportError(f"{file} holds a list of {listed[:60]}, not of {collection}.")
