"""The triggers, one file each: decode, call the pipeline stage of the same name, nothing else."""

from importlib import import_module

import azure.functions as func

from shared.settings import Role
from shared.wiring import settings, windows

FRONT = ("web",)
ENGINE = ("intake", "windows", "dispatch", "sync", "poll", "sweep", "control", "notify", "poison")
HOSTED = {Role.FRONT: FRONT, Role.ENGINE: ENGINE, Role.ALL: ENGINE + FRONT}


def blueprints() -> list[func.Blueprint]:
    """The blueprints of this app's role. Raises SettingsError, which stops the start and names the bad setting."""
    role = settings().role
    if role is not Role.FRONT:
        windows()
    return [import_module(f"functions.{name}").blueprint for name in HOSTED[role]]
