"""Stand-ins for the protobuf classes that the host hands to the worker runtime.

The runtime only sets and reads attributes of them, so a bag of attributes is enough; an unset field reads as None.
Their names and fields are those of https://github.com/Azure/azure-functions-language-worker-protobuf.
"""

from enum import IntEnum
from typing import Any


class Bag:
    """Keeps what it is given; any other field reads as None."""

    def __init__(self, **fields: Any) -> None:  # Any: a protobuf field holds whatever its message says
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:  # Any: see __init__
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class WorkerInitResponse(Bag): ...


class WorkerMetadata(Bag): ...


class FunctionMetadataResponse(Bag): ...


class FunctionLoadResponse(Bag): ...


class InvocationResponse(Bag): ...


class FunctionEnvironmentReloadResponse(Bag): ...


class RpcException(Bag): ...


class RpcFunctionMetadata(Bag): ...


class RpcHttp(Bag): ...


class RpcRetryOptions(Bag): ...


class NullableString(Bag): ...


class NullableBool(Bag): ...


class NullableDouble(Bag): ...


class NullableTimestamp(Bag): ...


class Timestamp(Bag): ...


class StatusResult(Bag):
    Failure = 0
    Success = 1


class BindingInfo(Bag):
    undefined = 0
    out = 1
    inout = 2


class RpcHttpCookie(Bag):
    SameSite = IntEnum("SameSite", {"None": 0, "Lax": 1, "Strict": 2, "ExplicitNone": 3})


class TypedData:
    """A value of one kind: TypedData(string=...), bytes, json or http.

    Unlike a bag it must not know other attributes: the runtime tells it from a message that holds one by that.
    """

    def __init__(self, **value: Any) -> None:  # Any: see Bag
        ((self.kind, self.value),) = value.items()

    def __getattr__(self, name: str) -> Any:  # Any: see Bag
        if name == self.__dict__.get("kind"):
            return self.value
        raise AttributeError(name)

    def WhichOneof(self, _group: str) -> str:  # noqa: N802 - protobuf's name
        return str(self.kind)


class ParameterBinding(Bag):
    """A function's argument: name and data."""

    def WhichOneof(self, _group: str) -> str:  # noqa: N802 - protobuf's name
        return "data"
