"""What the contract tests share."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import pytest

from sandbox.azurite import Azurite
from sandbox.azurite import azurite as start_azurite
from shared.domain.ids import ManagedDeviceId
from shared.graph.gateway import GraphIntune
from shared.pipeline.ports import Answer, Order

type Send = Callable[[GraphIntune, Sequence[Order]], Awaitable[Mapping[ManagedDeviceId, Answer]]]


@pytest.fixture(params=[GraphIntune.reset, GraphIntune.wipe], ids=["reset", "wipe"])
def send(request: pytest.FixtureRequest) -> Send:
    """How a reset and a full wipe are ordered: whatever holds for one holds for the other."""
    method: Send = request.param
    return method


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """One Azurite for the whole session, in memory; tests keep apart by the names of their queues and tables."""
    with start_azurite() as running:
        yield running
