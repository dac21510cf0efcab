"""The part of Microsoft Graph's published schema that Turnaround uses, as kept beside this module.

`v1.0.json` is made by `sandbox.graph_schema.extract`, `beta.json` by `sandbox.graph_schema.extract_beta`; each says in
its first lines what it was made from. Type names are written without a namespace: "String" is Edm.String,
"managedDevice" is microsoft.graph.managedDevice, and a list of them is "Collection(managedDevice)".
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

type Version = Literal["v1.0", "beta"]

FOLDER = Path(__file__).parent
PRIMITIVES = frozenset({"Binary", "Boolean", "DateTimeOffset", "Double", "Guid", "Int32", "Int64", "String"})


_WIDTH = 100
"""Of the kept files: an object that fits stands on one line."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Property(_Model):
    """A property of a type, or a parameter of an action."""

    type: str
    nullable: bool = True
    filter: tuple[str, ...] = ()
    """The operators that its published description allows in $filter; empty where that says nothing."""

    @property
    def item(self) -> str | None:
        """The type of its items; None for what is no collection."""
        return self.type.removeprefix("Collection(").removesuffix(")") if self.type.startswith("Collection(") else None


class Structure(_Model):
    """An entity type or a complex type, with what it inherits."""

    properties: Mapping[str, Property]
    navigation: Mapping[str, str] = {}
    actions: Mapping[str, Mapping[str, Property]] = {}
    """Bound actions, with their parameters."""
    returns: Mapping[str, str] = {}
    """What actions answer with, where that is something."""
    keys: tuple[str, ...] = ()
    """Properties that may stand as alternate key: devices(deviceId='...')."""


class About(_Model):
    """Where an extract comes from."""

    source: str
    licence: str
    made_by: str
    sha256: str = ""
    """Of the source, where that is one file."""
    added: str = ""
    """What the source lacks and which page has it."""


class Schema(_Model):
    """One version of Graph, as far as it is used."""

    about: About
    version: Version
    paths: Mapping[str, str]
    """Collections by their path, with the entity type that they hold."""
    entities: Mapping[str, str] = {}
    """Collections that are never listed: only single entities of them are asked for, by id."""
    singletons: Mapping[str, str] = {}
    """Single entities by their path, with their type."""
    types: Mapping[str, Structure]
    enums: Mapping[str, tuple[str, ...]]

    @classmethod
    @cache
    def kept(cls, version: Version) -> Self:
        """Read the extract of a version that is kept in the project."""
        return cls.model_validate_json((FOLDER / f"{version}.json").read_text("utf-8"))

    def text(self) -> str:
        """The file: JSON with one line for each property, list and enumeration."""
        return _pretty(self.model_dump(mode="json", exclude_defaults=True), "") + "\n"


def _pretty(value: object, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict):
        return flat
    if len(flat) <= _WIDTH and not any(isinstance(one, dict) for one in value.values()):
        return flat
    deeper = indent + "  "
    lines = [f"{deeper}{json.dumps(key)}: {_pretty(one, deeper)}" for key, one in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
