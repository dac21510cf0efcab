"""What the host is told: the settings file and host.json, with app settings that override host.json."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sandbox.azurite import connection_string
from sandbox.host.declared import HostError, Json
from sandbox.host.ncrontab import parse_timespan

OVERRIDE = "azurefunctionsjobhost__"
EMULATOR = connection_string(*(f"http://127.0.0.1:{port}/devstoreaccount1" for port in (10000, 10001, 10002)))


def _timespan(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a time span such as "00:00:02"')
    span = parse_timespan(value)
    if span is None:
        raise ValueError(f'{value!r} is not a time span such as "00:00:02"')
    return span


def _timeout(value: object) -> object:
    return None if value == "-1" else _timespan(value)


type TimeSpan = Annotated[timedelta, BeforeValidator(_timespan)]


class QueueOptions(BaseModel):
    """host.json's extensions.queues, with Azure's defaults.

    https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-queue#hostjson-settings
    """

    # A misspelt setting is silently without effect in Azure; here it is refused.
    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: name.replace("_", ""))

    max_polling_interval: Annotated[TimeSpan, Field(ge=timedelta(milliseconds=100))] = timedelta(minutes=1)
    visibility_timeout: TimeSpan = timedelta()
    batch_size: int = Field(16, ge=1, le=32)
    max_dequeue_count: int = Field(5, ge=1)
    new_batch_threshold: int = Field(-1, ge=-1)
    message_encoding: Annotated[str, BeforeValidator(lambda value: str(value).lower())] = Field(
        "base64", pattern="^(base64|none)$"
    )

    @model_validator(mode="after")
    def _half_a_batch(self) -> "QueueOptions":
        if self.new_batch_threshold < 0:
            self.new_batch_threshold = self.batch_size // 2
        return self


class HttpOptions(BaseModel):
    """host.json's extensions.http, as far as it is modelled."""

    route_prefix: str = Field("api", alias="routeprefix")


class Extensions(BaseModel):
    queues: QueueOptions = Field(default_factory=QueueOptions)
    http: HttpOptions = Field(default_factory=HttpOptions)


class HostOptions(BaseModel):
    """host.json; sections that are not modelled (logging, extensionBundle and so on) are left aside.

    https://learn.microsoft.com/azure/azure-functions/functions-host-json
    """

    version: str = Field(pattern=r"^2\.0$")
    # None: no limit. The default is that of the Flex Consumption plan.
    function_timeout: Annotated[timedelta | None, BeforeValidator(_timeout)] = Field(
        timedelta(minutes=30), alias="functiontimeout"
    )
    extensions: Extensions = Field(default_factory=Extensions)


class SandboxOptions(BaseModel):
    """What only this host has, read from settings named SANDBOX_...; times in seconds."""

    function_key: str = Field(default_factory=lambda: secrets.token_urlsafe(24), alias="SANDBOX_FUNCTION_KEY")
    # Azure's lease on a message is ten minutes: the time after which the message of a host that died comes back.
    queue_lease: int = Field(600, alias="SANDBOX_QUEUE_LEASE_SECONDS", ge=1)
    shutdown_grace: float = Field(5.0, alias="SANDBOX_SHUTDOWN_GRACE_SECONDS", ge=0)


def load_settings(file: Path) -> dict[str, str]:
    """Read a file shaped like local.settings.json and put its Values into the environment, over what is there.

    Raises HostError when it cannot be read, is encrypted, or has a value that is not a string.
    """
    data = _read_json(file)
    if data.get("IsEncrypted"):
        raise HostError(f"{file} is encrypted: decrypt it first (func settings decrypt)")
    values = data.get("Values", {})
    if not isinstance(values, dict):
        raise HostError(f"{file}: Values must be an object of names and strings")
    for name, value in values.items():
        if not isinstance(value, str):
            raise HostError(f"{file}: the value of {name} must be a string, not {json.dumps(value)}")
    os.environ.update(values)
    return values


def load_host_options(app: Path, environ: Mapping[str, str]) -> HostOptions:
    """Read the app's host.json and lay settings such as AzureFunctionsJobHost__extensions__queues__batchSize over it.

    https://learn.microsoft.com/azure/azure-functions/functions-host-json#override-hostjson-values
    Raises HostError that names the section and the value.
    """
    file = app / "host.json"
    data = _lower(_read_json(file))
    for name, value in environ.items():
        if name.lower().startswith(OVERRIDE):
            *path, last = re.split("__|:", name.lower().removeprefix(OVERRIDE))
            section = data
            for step in path:
                child = section.setdefault(step, {})
                if not isinstance(child, dict):
                    raise HostError(f"the setting {name} reaches into {step}, which is a value in {file}")
                section = child
            section[last] = value
    return _validate(HostOptions, data, str(file))


def load_sandbox_options(environ: Mapping[str, str]) -> SandboxOptions:
    """Read the SANDBOX_... settings, an empty one as if absent; raises HostError that names the bad one."""
    return _validate(SandboxOptions, {name: value for name, value in environ.items() if value}, "settings")


def time_zone(environ: Mapping[str, str]) -> ZoneInfo:
    """The zone timers are read in: the setting WEBSITE_TIME_ZONE, or UTC; raises HostError for an unknown one."""
    name = environ.get("WEBSITE_TIME_ZONE") or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise HostError(f"the setting WEBSITE_TIME_ZONE is {name!r}, which is no zone of the IANA database") from error


def storage_connection(name: str, environ: Mapping[str, str], whose: str) -> str:
    """The connection string that a binding's `connection` names; raises HostError when there is none to use."""
    for setting in (f"AzureWebJobs{name}", name):  # in this order, as in Azure
        if value := environ.get(setting):
            return EMULATOR if value.rstrip("; ").lower() == "usedevelopmentstorage=true" else value
    if any(key.lower().startswith(f"{name.lower()}__") for key in environ):
        raise HostError(
            f"{whose}: the connection {name} is identity-based ({name}__...); this host needs a connection string"
        )
    raise HostError(f"{whose}: its connection is the setting {name}, which is not there")


def _read_json(file: Path) -> Json:
    try:
        data = json.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise HostError(f"{file} is not there") from error
    except (OSError, ValueError) as error:
        raise HostError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise HostError(f"{file} must hold a JSON object")
    return data


def _lower(data: Json) -> Json:
    """Names without regard to case, as the real host takes them."""
    return {name.lower(): _lower(value) if isinstance(value, dict) else value for name, value in data.items()}


def _validate[T: BaseModel](model: type[T], data: object, where: str) -> T:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise HostError(f"{where}: {'; '.join(faults)}") from error
