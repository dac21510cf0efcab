"""Take the types that Turnaround uses out of Microsoft Graph's v1.0 metadata document (CSDL).

    python -m sandbox.graph_schema.extract METADATA.csdl

The document is the answer of https://graph.microsoft.com/v1.0/$metadata; Microsoft also publishes it, under the MIT
licence, in the repository microsoftgraph/msgraph-metadata on GitHub (schemas/v1.0-Prod.csdl).
"""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from sandbox.graph_schema.schema import FOLDER, PRIMITIVES, About, Property, Schema, Structure

PATHS = (
    *("deviceManagement/managedDevices", "deviceManagement/windowsAutopilotDeviceIdentities"),
    *("deviceManagement/managedDeviceOverview", "devices", "users", "groups"),
)
NEVER_LISTED = ("users", "groups")
ACTIONS = ("wipe", "syncDevice", "checkMemberGroups")
USER = ("id", "displayName", "mail", "userPrincipalName")
"""What is used of a user, whose type is large."""
PARTS = {"user": USER, "group": ("id", "displayName", "visibility")}
"""The large types of which only these properties are kept."""

_EDM = "{http://docs.oasis-open.org/odata/ns/edm}"
_COLLECTION = re.compile(r"Collection\((\w+)\)")
_FILTER = re.compile(r"Supports \$filter operators? ((?:'\w+'(?:, | and )?)+)")


class CsdlError(ValueError):
    """The document lacks something that Turnaround uses. The message names it."""


class _Document:
    def __init__(self, text: bytes) -> None:
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise CsdlError(f"this is no XML: {error}") from None
        schema = next((s for s in root.iter(f"{_EDM}Schema") if s.get("Namespace") == "microsoft.graph"), None)
        if schema is None:
            raise CsdlError("the document has no schema of namespace microsoft.graph")
        self.schema = schema
        self.named = {(child.tag.removeprefix(_EDM), child.get("Name")): child for child in schema}
        self.said = {
            str(target.get("Target")).removeprefix("microsoft.graph."): str(note.get("String"))
            for target in root.iter(f"{_EDM}Annotations")
            for note in target.iter(f"{_EDM}Annotation")
            if note.get("Term") == "Org.OData.Core.V1.Description"
        }

    def get(self, kind: str, name: str) -> Element:
        found = self.named.get((kind, name))
        if found is None:
            raise CsdlError(f"the document has no {kind} {name}")
        return found

    def paths(self) -> dict[str, str]:
        """The paths with their types, those of collections written as such."""
        container = self.get("EntityContainer", "GraphService")
        known = {
            str(one.get("Name")): f"Collection({_bare(kind)})"
            if (kind := one.get("EntityType"))
            else _bare(one.get("Type"))
            for one in container
        }
        found: dict[str, str] = {}
        for path in PATHS:
            first, _, rest = path.partition("/")
            type_ = known.get(first)
            if type_ is not None and rest:
                type_ = self._navigation(self.get("EntityType", type_)).get(rest)
            if type_ is None:
                raise CsdlError(f"the document has no path {path}")
            found[path] = type_
        return found

    def structure(self, name: str, only: tuple[str, ...] | None = None) -> Structure:
        own = self._own(name)
        chain = [own]
        while base := chain[0].get("BaseType"):
            chain.insert(0, self._own(_bare(base)))
        properties = {
            str(one.get("Name")): self._property(one, str(element.get("Name")))
            for element in chain
            for one in element.iter(f"{_EDM}Property")
        }
        if only is not None:
            if missing := set(only) - set(properties):
                raise CsdlError(f"the document has no {name}/{missing.pop()}")
            properties = {key: properties[key] for key in only}
        names = [str(element.get("Name")) for element in chain]
        actions = {one: found for one in ACTIONS if (found := self._action(one, names)) is not None}
        keys = [one.get("String") for one in own.iter(f"{_EDM}PropertyValue") if one.get("Property") == "Alias"]
        return Structure(
            properties=properties,
            navigation={} if only else self._navigation(own),
            actions={name: parameters for name, (parameters, _) in actions.items()},
            returns={name: returned for name, (_, returned) in actions.items() if returned},
            keys=tuple(key for key in keys if key),
        )

    def _own(self, name: str) -> Element:
        found = self.named.get(("EntityType", name), self.named.get(("ComplexType", name)))
        return self.get("EntityType", name) if found is None else found

    def _property(self, one: Element, owner: str) -> Property:
        allowed = _FILTER.search(self.said.get(f"{owner}/{one.get('Name')}", ""))
        return Property(
            type=_bare(one.get("Type")),
            nullable=one.get("Nullable") != "false",
            filter=tuple(re.findall(r"'(\w+)'", allowed[1])) if allowed else (),
        )

    def _navigation(self, element: Element) -> dict[str, str]:
        return {str(one.get("Name")): _bare(one.get("Type")) for one in element.iter(f"{_EDM}NavigationProperty")}

    def _action(self, name: str, bound_to: Sequence[str]) -> tuple[Mapping[str, Property], str] | None:
        """The parameters of an action of one of these types, and what it answers with."""
        for action in self.schema.iter(f"{_EDM}Action"):
            first, *rest = action.iter(f"{_EDM}Parameter")
            if action.get("Name") == name and action.get("IsBound") == "true" and _bare(first.get("Type")) in bound_to:
                returned = action.find(f"{_EDM}ReturnType")
                parameters = {str(one.get("Name")): self._property(one, "") for one in rest}
                return parameters, "" if returned is None else _bare(returned.get("Type"))
        return None

    def members(self, name: str) -> tuple[str, ...]:
        return tuple(str(one.get("Name")) for one in self.get("EnumType", name).iter(f"{_EDM}Member"))


def _bare(type_: str | None) -> str:
    return re.sub(r"\b(?:Edm|graph|microsoft\.graph)\.", "", type_ or "")


def extract(csdl: bytes) -> Schema:
    """Read the document and keep what is used; raises CsdlError when something of that is missing."""
    document = _Document(csdl)
    paths = document.paths()
    collections = {path: found[1] for path, type_ in paths.items() if (found := _COLLECTION.fullmatch(type_))}
    singletons = {path: type_ for path, type_ in paths.items() if path not in collections}
    kept = dict.fromkeys([*collections.values(), *singletons.values()])
    types = {name: document.structure(name, PARTS.get(name)) for name in kept}
    for action in ACTIONS:
        if not any(action in one.actions for one in types.values()):
            raise CsdlError(f"the document has no action {action}")
    enums: dict[str, tuple[str, ...]] = {}
    waiting = [*types.values()]
    while waiting:
        structure = waiting.pop()
        parameters = [one for action in structure.actions.values() for one in action.values()]
        for one in [*structure.properties.values(), *parameters]:
            name = one.item or one.type
            if name in PRIMITIVES or name in types or name in enums:
                continue
            if ("EnumType", name) in document.named:
                enums[name] = document.members(name)
            else:
                types[name] = document.structure(name)
                waiting.append(types[name])
    return Schema(
        about=About(
            source="Microsoft Graph v1.0 metadata, https://graph.microsoft.com/v1.0/$metadata",
            licence="MIT, Copyright (c) Microsoft Corporation",
            made_by="python -m sandbox.graph_schema.extract METADATA.csdl (do not edit)",
            sha256=hashlib.sha256(csdl).hexdigest(),
        ),
        version="v1.0",
        paths={path: type_ for path, type_ in collections.items() if path not in NEVER_LISTED},
        entities={path: type_ for path, type_ in collections.items() if path in NEVER_LISTED},
        singletons=singletons,
        types=types,
        enums=dict(sorted(enums.items())),
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m sandbox.graph_schema.extract METADATA.csdl", file=sys.stderr)
        return 2
    try:
        found = extract(Path(arguments[0]).read_bytes())
    except (OSError, CsdlError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    (FOLDER / "v1.0.json").write_text(found.text(), "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
