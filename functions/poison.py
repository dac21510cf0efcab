"""Queue triggers: a message was set aside after several tries, on the queue beside its own."""

from collections.abc import Awaitable, Callable

import azure.functions as func

from functions.message import text
from shared.messages.queues import TRIGGERING
from shared.settings import STORAGE
from shared.wiring import parts

blueprint = func.Blueprint()


def _handler(queue: str) -> Callable[[func.QueueMessage], Awaitable[None]]:
    async def poison(message: func.QueueMessage) -> None:
        from shared.pipeline.poison import poison as stage

        await stage(parts(), queue, text(message))

    return poison


for _queue in TRIGGERING:
    _name = f"poison_{_queue.removeprefix('reset-')}"
    _bound = blueprint.queue_trigger(arg_name="message", queue_name=f"{_queue}-poison", connection=STORAGE)
    blueprint.function_name(_name)(_bound(_handler(_queue)))
