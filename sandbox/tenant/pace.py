"""The one place where simulated durations become real ones: divided by the scenario's speed."""

from datetime import timedelta

from pydantic import BaseModel


def paced[Model: BaseModel](model: Model, speed: float) -> Model:
    """A copy of a model with each duration in it divided by `speed`; 1/speed turns it back."""
    return model.model_copy(update={name: _divided(value, speed) for name, value in model})


def _divided(value: object, speed: float) -> object:
    if isinstance(value, timedelta):
        return value / speed
    if isinstance(value, tuple):
        return tuple(_divided(one, speed) for one in value)
    return value
