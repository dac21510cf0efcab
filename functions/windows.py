"""Timer: a lab-turnover window opens."""

import azure.functions as func

from shared.wiring import parts
from shared.wiring import windows as plan

blueprint = func.Blueprint()


@blueprint.function_name("windows")
@blueprint.timer_trigger(arg_name="timer", schedule="%TURNAROUND_SCHEDULE_WINDOWS%", use_monitor=True)
async def windows(timer: func.TimerRequest) -> None:  # noqa: ARG001 - what is open follows from the time
    from shared.pipeline.windows import windows as stage

    await stage(parts(), plan())
