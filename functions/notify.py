"""Queue trigger: deliver what was promised to be told."""

import azure.functions as func

from functions.message import text
from shared.messages.queues import NOTICES
from shared.settings import STORAGE
from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("notify")
@blueprint.queue_trigger(arg_name="message", queue_name=NOTICES, connection=STORAGE)
async def notify(message: func.QueueMessage) -> None:
    from shared.pipeline.notify import notify as stage

    await stage(parts(), text(message))
