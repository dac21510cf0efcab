"""What an app declares: the settings that it names there, and the error that says what is wrong with it.

A module of its own, without pydantic: the worker's cold start is measured by it (`bench/start.py`).
"""

import re
from collections.abc import Mapping

type Json = dict[str, object]


class HostError(Exception):
    """The app cannot be run; the message says why, for a person."""


def resolve(text: str, environ: Mapping[str, str], whose: str) -> str:
    """Replace each %NAME% by that setting; raises HostError that names `whose` and the setting that is missing."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise HostError(f"{whose}: %{match[1]}% needs the setting {match[1]}, which is not there")
        return environ[match[1]]

    return re.sub("%([^%]+)%", value, text)
