"""Timer: force the syncs that are due."""

import azure.functions as func

from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("sync")
@blueprint.timer_trigger(arg_name="timer", schedule="%TURNAROUND_SCHEDULE_SYNC%", use_monitor=True)
async def sync(timer: func.TimerRequest) -> None:  # noqa: ARG001 - what is due is read from the table
    from shared.pipeline.sync import sync as stage

    await stage(parts())
