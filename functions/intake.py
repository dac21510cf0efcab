"""Queue trigger: a request came in."""

import azure.functions as func

from functions.message import text
from shared.messages.queues import REQUESTS
from shared.settings import STORAGE
from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("intake")
@blueprint.queue_trigger(arg_name="message", queue_name=REQUESTS, connection=STORAGE)
async def intake(message: func.QueueMessage) -> None:
    from shared.pipeline.intake import intake as stage

    await stage(parts(), text(message))
