"""Take the beta types that Turnaround uses out of Microsoft's generated Python SDK for Graph beta.

    python -m sandbox.graph_schema.extract_beta MSGRAPH_BETA

The argument is the folder of the package msgraph_beta (PyPI: msgraph-beta-sdk, MIT licence), which is large and no
dependency of the project. Its sources are read, never run. They tell less than the metadata does: not what may be null,
not Int32 from Int64, and no $filter; so everything may be null here, and whole numbers are Int64.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import PathDistribution
from pathlib import Path

from sandbox.graph_schema.extract import USER
from sandbox.graph_schema.schema import FOLDER, About, Property, Schema, Structure

PATHS = {
    "deviceManagement/managedDevices": "managedDevice",
    "deviceManagement/windowsAutopilotDeviceIdentities": "windowsAutopilotDeviceIdentity",
    "deviceManagement/remoteActionAudits": "remoteActionAudit",
    "deviceManagement/operationApprovalRequests": "operationApprovalRequest",
    "devices": "device",
}
COMPLEX = ("deviceActionResult", "loggedOnUser")
"""The complex types of which the properties are kept; the others are objects of any shape."""
MANAGED_DEVICE = "device_management/managed_devices/item"

_PRIMITIVES = {
    "str": "String",
    "bool": "Boolean",
    "datetime": "DateTimeOffset",
    "int": "Int64",
    "float": "Double",
    "uuid": "Guid",
    "bytes": "Binary",
}
_OF_TYPE = {"get_object_value", "get_collection_of_object_values", "get_enum_value", "get_collection_of_enum_values"}


class SdkError(ValueError):
    """The SDK lacks something that Turnaround uses, or is written otherwise than known. The message names it."""


class _Sdk:
    def __init__(self, package: Path) -> None:
        self.folder = package / "generated"
        self.enums: dict[str, tuple[str, ...]] = {}

    @cached_property
    def models(self) -> dict[str, Path]:
        """The files of the models, by class name in lower case; those of the main namespace win."""
        files = sorted((self.folder / "models").rglob("*.py"), key=lambda path: (-len(path.parts), path))
        return {path.stem.replace("_", ""): path for path in files}

    def parse(self, path: Path) -> ast.ClassDef:
        try:
            module = ast.parse(path.read_text("utf-8"))
        except OSError as error:
            raise SdkError(str(error)) from None
        return next(one for one in module.body if isinstance(one, ast.ClassDef))

    def model(self, class_name: str) -> ast.ClassDef:
        path = self.models.get(class_name.lower())
        if path is None:
            raise SdkError(f"the SDK has no model {class_name}")
        return self.parse(path)

    def chain(self, class_name: str) -> list[ast.ClassDef]:
        """The model with what it inherits, the oldest first."""
        found = [self.model(class_name)]
        while (base := ast.unparse(found[0].bases[0])).lower() in self.models:
            found.insert(0, self.model(base))
        return found

    def structure(self, name: str, only: tuple[str, ...] | None = None) -> Structure:
        properties: dict[str, Property] = {}
        navigation: dict[str, str] = {}
        for class_ in self.chain(name):
            for field, reader, argument in _fields(class_):
                if field == "@odata.type" or (only is not None and field not in only):
                    continue
                type_, is_entity = self.type(reader, argument)
                if is_entity:
                    navigation[field] = type_
                else:
                    properties[field] = Property(type=type_)
        return Structure(properties=properties, navigation=navigation)

    def type(self, reader: str, argument: str) -> tuple[str, bool]:
        """The type of a field, by the method that reads it; and whether it is an entity, hence another resource."""
        if reader in _OF_TYPE:
            name, is_entity = argument[:1].lower() + argument[1:], False
            if "enum" in reader:
                self.enums[name] = tuple(_members(self.model(argument)))
            else:
                is_entity = any(one.name == "Entity" for one in self.chain(argument))
        else:
            primitive = re.fullmatch(r"get_(\w+)_value", reader)
            name, is_entity = _PRIMITIVES.get(primitive[1] if primitive else argument, ""), False
        if not name:
            raise SdkError(f"the SDK reads a field by {reader}({argument}), which is not known here")
        return (f"Collection({name})" if "collection" in reader else name), is_entity

    def action(self, folder: str) -> dict[str, Property]:
        """The parameters of an action of managedDevice."""
        path = self.folder / MANAGED_DEVICE / folder
        if not path.is_dir():
            raise SdkError(f"the SDK has no action {folder}")
        body = path / f"{folder}_post_request_body.py"
        if not body.exists():
            return {}
        fields = _fields(self.parse(body))
        return {field: Property(type=self.type(reader, argument)[0]) for field, reader, argument in fields}


def _fields(class_: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """The fields as JSON names them, each with the method that reads it and that method's argument."""
    for one in ast.walk(class_):
        if not isinstance(one, ast.Dict):
            continue
        for key, value in zip(one.keys, one.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Lambda) and isinstance(value.body, ast.Call):
                read = value.body.args[2]
                if isinstance(read, ast.Call) and isinstance(read.func, ast.Attribute):
                    yield str(key.value), read.func.attr, ast.unparse(read.args[0]) if read.args else ""


def _members(enum: ast.ClassDef) -> Iterator[str]:
    for one in enum.body:
        if isinstance(one, ast.Assign):
            value = ast.literal_eval(one.value)
            yield value[0] if isinstance(value, tuple) else value


def extract(package: Path) -> Schema:
    """Read the SDK's sources and keep what is used; raises SdkError when something of that is missing."""
    sdk = _Sdk(package)
    types = {name: sdk.structure(name) for name in PATHS.values()}
    types["managedDevice"] = types["managedDevice"].model_copy(
        update={"actions": {"wipe": sdk.action("wipe"), "syncDevice": sdk.action("sync_device")}}
    )
    types["device"] = types["device"].model_copy(update={"keys": ("deviceId",)})
    approval = types["operationApprovalRequest"]
    types["operationApprovalRequest"] = approval.model_copy(
        update={"properties": {**approval.properties, "requestId": Property(type="String")}}
    )
    types["user"] = sdk.structure("user", USER)
    types |= {name: sdk.structure(name) for name in COMPLEX}
    versions = [PathDistribution(one).version for one in package.parent.glob("msgraph_beta_sdk-*.dist-info")]
    return Schema(
        about=About(
            source=f"The generated models of msgraph-beta-sdk {versions[0] if versions else 'of unknown version'}",
            licence="MIT, Copyright (c) Microsoft Corporation",
            made_by="python -m sandbox.graph_schema.extract_beta MSGRAPH_BETA (do not edit)",
            added=(
                "operationApprovalRequest/requestId, by which the page on Multi Admin Approval filters: "
                "https://learn.microsoft.com/intune/intune-service/fundamentals/multi-admin-approval"
            ),
        ),
        version="beta",
        paths=PATHS,
        types=types,
        enums=dict(sorted(sdk.enums.items())),
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m sandbox.graph_schema.extract_beta MSGRAPH_BETA", file=sys.stderr)
        return 2
    try:
        found = extract(Path(arguments[0]))
    except SdkError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    (FOLDER / "beta.json").write_text(found.text(), "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
