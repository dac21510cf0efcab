"""Names and kinds of the properties that the simulated Graph knows, out of the kept extracts of Graph's own schema.

A kind is a primitive type ("String", "DateTimeOffset", ...), the name of an enumeration in `ENUMS`, "Complex" or
"Collection".
"""

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.graph_schema.schema import PRIMITIVES, Property, Schema, Version

_V1, _BETA = Schema.kept("v1.0"), Schema.kept("beta")
_BETA_ENUM = "beta."

ENUMS: Mapping[str, frozenset[str]] = MappingProxyType(
    {name: frozenset(members) for name, members in _V1.enums.items()}
    | {_BETA_ENUM + name: frozenset(members) for name, members in _BETA.enums.items()}
)
"""The published members of each enumeration, beta's by a name of their own; the wire may carry others."""


def kinds(version: Version, name: str) -> Mapping[str, str]:
    """The properties of a type, each with its kind. Raises KeyError for a type that is not kept."""
    return _kinds(version, Schema.kept(version).types[name].properties)


def parameters(version: Version, action: str) -> Mapping[str, str]:
    """The parameters of an action of managedDevice, each with its kind. Raises KeyError for one that is not kept."""
    return _kinds(version, Schema.kept(version).types["managedDevice"].actions[action])


def _kinds(version: Version, properties: Mapping[str, Property]) -> Mapping[str, str]:
    enums = Schema.kept(version).enums

    def kind(one: Property) -> str:
        if one.item is not None:
            return "Collection"
        if one.type in enums:
            return one.type if version == "v1.0" else _BETA_ENUM + one.type
        return one.type if one.type in PRIMITIVES else "Complex"

    return MappingProxyType({name: kind(one) for name, one in properties.items()})


MANAGED_DEVICE = kinds("v1.0", "managedDevice")
MANAGED_DEVICE_BETA = kinds("beta", "managedDevice")
"""joinType, autopilotEnrolled and their like are beta only: v1.0 refuses to select them."""
ENTRA_DEVICE = kinds("v1.0", "device")
ENTRA_DEVICE_BETA = kinds("beta", "device")
AUTOPILOT_IDENTITY = kinds("v1.0", "windowsAutopilotDeviceIdentity")
AUTOPILOT_IDENTITY_BETA = kinds("beta", "windowsAutopilotDeviceIdentity")
"""beta spells the Entra device id a second way, azureAdDeviceId."""
AUDIT = kinds("beta", "remoteActionAudit")
GROUP = kinds("v1.0", "group")
OVERVIEW = kinds("v1.0", "managedDeviceOverview")
OS_SUMMARY = kinds("v1.0", "deviceOperatingSystemSummary")
EXCHANGE_SUMMARY = kinds("v1.0", "deviceExchangeAccessStateSummary")
APPROVAL = kinds("beta", "operationApprovalRequest")

MANAGED_DEVICE_FILTERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {name: frozenset(one.filter) - {"or"} for name, one in _V1.types["managedDevice"].properties.items() if one.filter}
)
"""The $filter operators that the descriptions in the schema allow, by property."""
