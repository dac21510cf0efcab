"""Settings of the app: typed, read from the environment (Functions' app settings), checked before anything starts."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self, override

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared.domain.policy import Policy

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from shared.domain.windows import Windows

APP = Path(__file__).resolve().parent.parent
"""The app's folder: files that settings name are looked for from here."""

STORAGE = "TURNAROUND_STORAGE"
"""The connection that triggers and stages share: a connection string, or with `__queueServiceUri` and so on, by
identity. The addresses of an app without triggers may carry a SAS each, which then stands for the identity."""


POLICY = "TURNAROUND_POLICY"
"""What the settings of the policy begin with: `__<NAME>` for one field, `_FILE` for the file."""


class SettingsError(Exception):
    """The settings do not allow a start. Each fault names a setting, or a file and a field, and what is wrong there."""

    def __init__(self, *faults: str) -> None:
        super().__init__("Turnaround cannot start. " + "; ".join(faults))
        self.faults = faults


class Role(StrEnum):
    """Which part of Turnaround an app is (safety rule S10)."""

    FRONT = "front"
    """HTTP only: puts messages on queues and reads the table; has no rights in Graph."""
    ENGINE = "engine"
    """Everything but HTTP; may reset devices."""
    ALL = "all"
    """Both in one, for development and trials."""


class GraphSettings(BaseModel):
    """Where Graph is, and who we are there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cloud: str = "global"
    """global, usgov, usgovdod; or http://127.0.0.1:PORT for the sandbox."""
    client_id: str | None = None
    """Client id of the user-assigned managed identity."""
    static_token: str | None = Field(default=None, repr=False)
    """For the sandbox only; refused where Graph is not on this machine."""


class StorageIdentity(BaseSettings):
    """Storage by address: the `TURNAROUND_STORAGE__*` settings that Functions triggers use too."""

    model_config = SettingsConfigDict(env_prefix=f"{STORAGE}__", extra="ignore", frozen=True)

    credential: str = "managedidentity"
    clientid: str | None = None
    queueserviceuri: str | None = Field(default=None, repr=False)
    tableserviceuri: str | None = Field(default=None, repr=False)


class _AppSettings(EnvSettingsSource):
    """App settings. What should be JSON and is not stays as it is, so that its own field refuses it, by name."""

    @override
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: object) -> object:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class _PolicyFile(PydanticBaseSettingsSource):
    """The file that `policy_file` names, which the sources above this one have told by now. Raises _FileError."""

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[None, str, bool]:
        return None, field_name, False  # asked for by the base class; this source gives all of it at once

    @override
    def __call__(self) -> dict[str, object]:
        file = self.current_state.get("policy_file")
        return {"policy": _toml(APP / file)} if file else {}


class PolicySettings(BaseSettings):
    """The policy, and all that it is read from: the app settings, below them the file, below that the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="TURNAROUND_", env_nested_delimiter="__", extra="ignore", frozen=True, env_ignore_empty=True
    )

    policy_file: str | None = None
    """Path of policy.toml, from the app's folder; none: app settings and defaults alone."""
    policy: Policy = Policy()

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _AppSettings(settings_cls), _PolicyFile(settings_cls)


class Settings(PolicySettings):
    """All settings but the schedules. Every name begins with `TURNAROUND_`."""

    role: Role = Role.ALL
    tenant_id: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.-]{0,99}$")
    """The Entra tenant: its id or a verified domain. It is the table's partition key too."""
    table: str = Field(default="turnaround", pattern=r"^[A-Za-z][A-Za-z0-9]{2,62}$")
    storage_connection: str | None = Field(default=None, validation_alias=STORAGE, repr=False)
    storage_identity: StorageIdentity = Field(default_factory=StorageIdentity)
    graph: GraphSettings = GraphSettings()
    windows_file: str | None = None
    """Path of windows.toml, from the app's folder; none: no windows."""

    @model_validator(mode="after")
    def _storage_given(self) -> Self:
        identity = self.storage_identity
        if not self.storage_connection and not (identity.queueserviceuri and identity.tableserviceuri):
            raise ValueError(
                f"set {STORAGE} to a connection string, or {STORAGE}__queueServiceUri and {STORAGE}__tableServiceUri"
            )
        return self


class Origin(StrEnum):
    """Where a value of the policy comes from."""

    DEFAULT = "default"
    FILE = "file"
    SETTING = "setting"


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """The policy that holds, and where each of its fields comes from."""

    policy: Policy
    file: Path | None
    origins: Mapping[str, Origin]


def load() -> Settings:
    """The settings from the environment. Raises SettingsError that names every bad one."""
    return _checked(Settings)


def load_policy(file: Path | None = None) -> ReadPolicy:
    """The policy as the app reads it. A file given here stands in for TURNAROUND_POLICY_FILE. Raises SettingsError."""
    read = _checked(lambda: PolicySettings(policy_file=str(file.absolute())) if file else PolicySettings(), file)
    set_, given = _set_by_settings(), read.policy.model_fields_set
    origins = {
        name: Origin.SETTING if name in set_ else Origin.FILE if name in given else Origin.DEFAULT
        for name in Policy.model_fields
    }
    return ReadPolicy(read.policy, APP / read.policy_file if read.policy_file else None, origins)


def load_windows(settings: Settings, folder: Path) -> "Windows":
    """The lab windows. Raises SettingsError that names file, window and fault."""
    from shared.domain.windows import Windows  # and with it all of the request's contract: a front has no use for it

    if settings.windows_file is None:
        return Windows()
    path = folder / settings.windows_file
    try:
        return Windows.model_validate(_toml(path))
    except _FileError as error:
        raise SettingsError(f"TURNAROUND_WINDOWS_FILE: {error}") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {_said(fault)}" for fault in error.errors())
        raise SettingsError(*(f"TURNAROUND_WINDOWS_FILE: {path}: {fault}" for fault in faults)) from None


class _FileError(Exception):
    """A file that cannot be read, or is not TOML. The message names it."""


def _toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise _FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _FileError(f"{path} is not TOML: {error}") from error


def _checked[S: PolicySettings](make: Callable[[], S], file: Path | None = None) -> S:
    try:
        return make()
    except _FileError as error:
        raise SettingsError(str(error) if file else f"{POLICY}_FILE: {error}") from error
    except ValidationError as error:
        named = _AppSettings(PolicySettings)().get("policy_file")
        where = file or (APP / named if named else None)
        raise SettingsError(*(f"{_where(fault, where)}: {_said(fault)}" for fault in error.errors())) from None


def _set_by_settings() -> frozenset[str]:
    """The fields of the policy that app settings set."""
    fields = _AppSettings(PolicySettings)().get("policy")
    return frozenset(fields) if isinstance(fields, dict) else frozenset()


def _where(fault: "ErrorDetails", file: Path | None) -> str:
    """The setting that is bad, or the policy's file and the field in it."""
    match fault["loc"]:
        case ("policy", field, *within):
            in_file = file is not None and field not in _set_by_settings()
            name = f"{file}: {field}" if in_file else f"{POLICY}__{field}".upper()
            return f"{name}: {'.'.join(map(str, within))}" if within else name
        case ("policy",):
            return _where_together(fault, file)
        case location if not location or location[0] == STORAGE:
            return STORAGE
        case location:
            return "TURNAROUND_" + "__".join(map(str, location)).upper()


def _where_together(fault: "ErrorDetails", file: Path | None) -> str:
    """The settings and the file that hold the fields which do not fit together; they are named in the fault."""
    if not isinstance(given := fault["input"], dict):
        return POLICY
    named = [name for name in re.findall(r"\w+", fault["msg"]) if name in given]
    set_ = _set_by_settings()
    places = [f"{POLICY}__{name}".upper() for name in named if name in set_]
    places += [str(file)] if file is not None and any(name not in set_ for name in named) else []
    return ", ".join(dict.fromkeys(places)) or str(file or POLICY)


def _said(fault: "ErrorDetails") -> str:
    """What is wrong, for people."""
    *within, name = fault["loc"] or ("",)
    match fault["type"]:
        case "extra_forbidden":
            near = get_close_matches(str(name).lower(), Policy.model_fields, n=1) if within == ["policy"] else []
            return "there is no such field" + "".join(f"; is {one} meant?" for one in near)
        case "frozen_set_type" | "tuple_type":
            return 'give a list, such as ["one", "another"]'
        case _:
            return fault["msg"].removeprefix("Value error, ")
