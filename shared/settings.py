"""Settings of the app: typed, read from the environment (Functions' app settings), checked before anything starts."""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.domain.policy import Policy
from shared.domain.windows import Windows

STORAGE = "TURNAROUND_STORAGE"
"""The connection that triggers and stages share: a connection string, or with `__queueServiceUri` and so on, by
identity."""


class SettingsError(Exception):
    """The settings do not allow a start. The message names each bad setting and what is wrong with it."""


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
    """Storage by identity: the `TURNAROUND_STORAGE__*` settings that Functions triggers use too."""

    model_config = SettingsConfigDict(env_prefix=f"{STORAGE}__", extra="ignore", frozen=True)

    credential: str = "managedidentity"
    clientid: str | None = None
    queueserviceuri: str | None = None
    tableserviceuri: str | None = None


class Schedules(BaseSettings):
    """NCRONTAB schedules of the timers, which the Functions host reads by these names."""

    model_config = SettingsConfigDict(env_prefix="TURNAROUND_SCHEDULE_", extra="ignore", frozen=True)

    windows: str
    sync: str
    poll: str
    sweep: str


class Settings(BaseSettings):
    """All settings but the schedules. Every name begins with `TURNAROUND_`."""

    model_config = SettingsConfigDict(
        env_prefix="TURNAROUND_", env_nested_delimiter="__", extra="ignore", frozen=True, env_ignore_empty=True
    )

    role: Role = Role.ALL
    tenant_id: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.-]{0,99}$")
    """The Entra tenant: its id or a verified domain. It is the table's partition key too."""
    table: str = Field(default="turnaround", pattern=r"^[A-Za-z][A-Za-z0-9]{2,62}$")
    storage_connection: str | None = Field(default=None, validation_alias=STORAGE, repr=False)
    storage_identity: StorageIdentity = Field(default_factory=StorageIdentity)
    graph: GraphSettings = GraphSettings()
    policy: Policy = Policy()
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


def load() -> Settings:
    """The settings from the environment. Raises SettingsError that names every bad one."""
    try:
        return Settings()
    except ValidationError as error:
        faults = [f"{_name(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()]
        raise SettingsError("Turnaround cannot start. " + "; ".join(faults)) from None


def load_windows(settings: Settings, folder: Path) -> Windows:
    """The lab windows. Raises SettingsError that names file, window and fault."""
    if settings.windows_file is None:
        return Windows()
    path = folder / settings.windows_file
    try:
        return Windows.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"TURNAROUND_WINDOWS_FILE: {path}: {error}") from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError(f"TURNAROUND_WINDOWS_FILE: {path}: " + "; ".join(faults)) from None


def _name(location: tuple[int | str, ...]) -> str:
    first = str(location[0]) if location else ""
    if first in ("", STORAGE):
        return STORAGE
    return "TURNAROUND_" + "__".join(str(step) for step in location).upper()
