"""Timer: deadlines, lost wake-ups, retention."""

import azure.functions as func

from shared.wiring import parts

blueprint = func.Blueprint()


@blueprint.function_name("sweep")
@blueprint.timer_trigger(arg_name="timer", schedule="%TURNAROUND_SCHEDULE_SWEEP%", use_monitor=True)
async def sweep(timer: func.TimerRequest) -> None:  # noqa: ARG001 - what is due is read from the table
    from shared.pipeline.sweep import sweep as stage

    await stage(parts())
