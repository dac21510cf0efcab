"""Queue trigger: cancel, retry, halt, resume."""

import azure.functions as func

from functions.message import text
from shared.messages.queues import CONTROL
from shared.settings import STORAGE
from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("control")
@blueprint.queue_trigger(arg_name="message", queue_name=CONTROL, connection=STORAGE)
async def control(message: func.QueueMessage) -> None:
    from shared.pipeline.control import control as stage

    await stage(parts(), text(message))
