"""The command contract: what may be put on the queue `reset-control`, and which of it on `reset-requests` too."""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.domain.lifecycle import Command
from shared.domain.request import ID, Instant, Text, Value

RequestIdText = Annotated[str, Field(pattern=rf"^{ID}$")]


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    by: Value
    """Who gives the command."""
    why: Text


class DeviceCommand(_Contract):
    """Cancel or retry all devices of a request, or one of them."""

    command: Literal[Command.CANCEL, Command.RETRY]
    requestId: RequestIdText  # noqa: N815 - the message's name
    intuneId: Value | None = None  # noqa: N815 - the message's name


class ApprovalCommand(_Contract):
    """Approve a request, or decline it, as the second person. The digest says what exactly is approved."""

    command: Literal["approve", "decline"]
    requestId: RequestIdText  # noqa: N815 - the message's name
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class HaltCommand(_Contract):
    """Stop every send, or go on with them."""

    command: Literal["halt", "resume"]
    at: Instant | None = None
    """When it was given: a resume does not end a halt that was thrown after it, should it come late or twice."""


Message = DeviceCommand | ApprovalCommand | HaltCommand
READER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="command")])

STOPPING = frozenset({"cancel", "halt"})
"""Commands that can only stop things: whoever may ask for resets may give them too, on the same queue."""


def is_command(body: str) -> bool:
    """Whether a message on the queue of requests is a command."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "command" in fields
