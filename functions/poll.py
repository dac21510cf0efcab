"""Timer: see which devices have checked in."""

import azure.functions as func

from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("poll")
@blueprint.timer_trigger(arg_name="timer", schedule="%TURNAROUND_SCHEDULE_POLL%", use_monitor=True)
async def poll(timer: func.TimerRequest) -> None:  # noqa: ARG001 - what is due is read from the table
    from shared.pipeline.poll import poll as stage

    await stage(parts())
