"""Deliver notices: each as a CloudEvents 1.0 message on the queue that its request named."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pydantic import TypeAdapter

from shared.domain.notices import Notice
from shared.pipeline.parts import Parts, each

SOURCE = "/turnaround"
TYPE_PREFIX = "io.turnaround."


@dataclass(frozen=True, slots=True)
class _Message:
    notices: list[Notice]


_READER = TypeAdapter(_Message)


async def notify(parts: Parts, body: str) -> None:
    """Hand every notice of a message to its queue, in order; one that cannot be delivered holds up no other. Repeated
    after a failure, the ids stay the same."""
    await each(*(partial(parts.queues.send, notice.queue, envelope(notice)) for notice in notices_in(body)))


def notices_in(body: str) -> list[Notice]:
    """The notices of a message on `reset-notices`. Raises pydantic.ValidationError."""
    return _READER.validate_json(body).notices


def envelope(notice: Notice) -> str:
    """The notice as a CloudEvents 1.0 JSON event (cloudevents.io, structured mode), with the extension "sequence"."""
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    event = CloudEvent(
        {
            "id": notice.id,
            "source": SOURCE,
            "type": TYPE_PREFIX + notice.type,
            "specversion": "1.0",
            "subject": notice.subject,
            "time": datetime.fromisoformat(str(notice.data["at"])),
            "datacontenttype": "application/json",
            **({"sequence": notice.sequence} if notice.sequence else {}),
        },
        dict(notice.data),
    )
    return JSONFormat().write(event).decode()
