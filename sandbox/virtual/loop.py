"""An asyncio event loop whose time jumps to the next timer: a day's sleep takes microseconds.

No threads and no sockets: whatever would wait for the world outside is refused, since the world stands still meanwhile.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import NoReturn


class StandstillError(RuntimeError):
    """Every task waits for another, and no timer is set: nothing would ever happen again."""


class _Jump(selectors.SelectSelector):
    """Looks at no file; to wait is to let the time pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StandstillError("every task waits, and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time begins at 0 and passes only while every task sleeps."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jump.now

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - the loop's
        func: Callable[..., object],
        *args: object,  # noqa: ARG002 - the loop's
    ) -> NoReturn:
        """Refused: while a thread works, virtual time would run ahead of it."""
        raise RuntimeError(f"{func!r} would run in a thread, which virtual time does not wait for")


def run[T](main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end in virtual time. Raises StandstillError, and whatever it raises."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
