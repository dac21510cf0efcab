"""Deliver notices: each as a CloudEvents 1.0 message on the queue that its request named."""

import json
from datetime import datetime

from pydantic import TypeAdapter

from shared.domain.notices import Notice
from shared.pipeline.parts import Parts

SOURCE = "/turnaround"
TYPE_PREFIX = "io.turnaround."
_READER = TypeAdapter(list[Notice])


async def notify(parts: Parts, body: str) -> None:
    """Hand every notice of a message to its queue, in order. Repeated after a failure, the ids stay the same."""
    for notice in _READER.validate_python(json.loads(body)["notices"]):
        await parts.queues.send(notice.queue, envelope(notice))


def envelope(notice: Notice) -> str:
    """The notice as a CloudEvents 1.0 JSON event (cloudevents.io, structured mode)."""
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
        },
        dict(notice.data),
    )
    return JSONFormat().write(event).decode()
