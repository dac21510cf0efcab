"""What the acceptance tests share."""

from collections.abc import Iterator

import pytest

from sandbox.azurite import Azurite
from sandbox.azurite import azurite as start_azurite


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """One Azurite for the whole session, in memory; tests keep apart by the names of their queues and tables."""
    with start_azurite() as running:
        yield running
