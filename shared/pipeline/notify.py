"""Deliver notices: each as a CloudEvents 1.0 message on the queue that its request named."""

import logging
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pydantic import TypeAdapter

from shared.domain.notices import Notice
from shared.messages.queues import NOTICES
from shared.pipeline.parts import Parts, bodies, each
from shared.state import rows

log = logging.getLogger(__name__)

SOURCE = "/turnaround"
TYPE_PREFIX = "io.turnaround."


@dataclass(frozen=True, slots=True)
class _Message:
    notices: list[Notice]


_READER = TypeAdapter(_Message)


async def notify(parts: Parts, body: str) -> None:
    """Hand every notice of a message to its queue, in order. One that cannot be delivered holds up no other, and comes
    again in a message of its own: of a hundred that share one, few would ever all go well together. The ids stay the
    same. Raises ExceptionGroup where none could be delivered."""
    notices, left = notices_in(body), list[Notice]()

    async def deliver(notice: Notice) -> None:
        left.append(notice)
        await parts.queues.send(notice.queue, envelope(notice))
        left.pop()

    try:
        await each(*(partial(deliver, notice) for notice in notices))
    except ExceptionGroup as failed:
        if left == notices:
            raise
        log.warning("%s of %s notices come again: %s", len(left), len(notices), failed.exceptions[0])
        for again in bodies(NOTICES, list(map(rows.doc, left))):
            await parts.queues.send(NOTICES, again)


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
