"""Queue trigger: a device's turn has come."""

import azure.functions as func

from functions.message import text
from shared.messages.queues import DISPATCH
from shared.settings import STORAGE
from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("dispatch")
@blueprint.queue_trigger(arg_name="message", queue_name=DISPATCH, connection=STORAGE)
async def dispatch(message: func.QueueMessage) -> None:
    from shared.pipeline.dispatch import dispatch as stage

    await stage(parts(), text(message))
