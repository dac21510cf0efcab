"""The one place of the sandbox that starts and ends child processes."""

import contextlib
import ctypes
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

type Output = int | IO[str] | Path | None
"""Where a child's output goes: inherited (None), subprocess.PIPE or DEVNULL, an open file, or a file to append to."""

PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildError(Exception):
    """A child process did not start as it should; the message has the end of what it said."""


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdout: Output = None,
    stderr: Output = None,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start a child in a process group of its own, so that a Ctrl-C in the terminal reaches only us, who then stop it.

    `env` is the child's whole environment (None: ours). On Linux the child is told to end (SIGTERM) when the thread
    that called this ends, however it ends, so call it from the main thread. Elsewhere only `stop` ends it.

    Raises ChildError when the program cannot be started.
    """
    files = [path.open("a", encoding="utf-8") for path in (stdout, stderr) if isinstance(path, Path)]
    opened = iter(files)
    try:
        return subprocess.Popen(
            [str(part) for part in command],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=next(opened) if isinstance(stdout, Path) else stdout,
            stderr=next(opened) if isinstance(stderr, Path) else stderr,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            preexec_fn=_die_with(os.getpid()) if _libc is not None else None,
        )
    except OSError as error:
        raise ChildError(f"could not start {command[0]}: {error}") from error
    finally:
        for file in files:
            file.close()


def _die_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        assert _libc is not None
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def stop(process: subprocess.Popen[str], grace: float = 10.0) -> int:
    """Ask the child's group to end, kill it after `grace` seconds, and give its exit code; harmless if it has ended."""
    if process.poll() is None:
        _signal(process, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            kill(process)
    return process.wait()


def kill(process: subprocess.Popen[str]) -> None:
    """End the child's group at once, as a crash would."""
    if process.poll() is None:
        _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    if os.name == "nt":
        process.send_signal(number)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; macOS says so with EPERM
        os.killpg(process.pid, number)


def free_port() -> int:
    """A loopback port that is free now; another program may take it before it is used, so rather listen on port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready_line(
    process: subprocess.Popen[str], *, timeout: float = 30.0, stderr: Path | None = None
) -> dict[str, object]:
    """Wait for the JSON line {"event": "ready", ...} on the child's stdout, which must be a pipe, and give it.

    Raises ChildError as `wait_for_line` does.
    """

    def parse(line: str) -> dict[str, object] | None:
        try:
            value = json.loads(line)
        except ValueError:
            return None
        return value if isinstance(value, dict) and value.get("event") == "ready" else None

    return wait_for_line(process, parse, timeout=timeout, stderr=stderr)


def wait_for_line[T](
    process: subprocess.Popen[str],
    parse: Callable[[str], T | None],
    *,
    timeout: float = 30.0,
    stderr: Path | None = None,
    keep: Path | None = None,
) -> T:
    """Give what `parse` first makes of a line of the child's stdout; the lines after it are read and dropped.

    With `keep`, all lines are written to that file.

    Raises ChildError, with the end of stdout and of the file `stderr`, when the child ends or `timeout` seconds pass
    before that; the child is stopped then.
    """
    assert process.stdout is not None, "give spawn stdout=subprocess.PIPE"
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    wanted = threading.Event()
    wanted.set()
    threading.Thread(target=_drain, args=(process.stdout, lines, wanted, keep), daemon=True).start()
    deadline = time.monotonic() + timeout
    seen: list[str] = []
    reason = f"was not ready after {timeout:g} seconds"
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            reason = "ended before it was ready"
            break
        if (found := parse(line)) is not None:
            wanted.clear()
            return found
        seen.append(line)
    code = stop(process, grace=1.0)
    said = "".join(seen[-20:]) + tail(stderr)
    raise ChildError(f"{process.args!r} {reason} (exit code {code})" + (f":\n{said.rstrip()}" if said else ""))


def _drain(
    pipe: IO[str], lines: queue.SimpleQueue[str | None], wanted: threading.Event, keep: Path | None = None
) -> None:
    with pipe, keep.open("a", encoding="utf-8", buffering=1) if keep else contextlib.nullcontext() as kept:
        for line in pipe:
            if wanted.is_set():
                lines.put(line)
            if kept is not None:
                kept.write(line)
    lines.put(None)


def tail(path: Path | None, count: int = 20) -> str:
    """The last lines of a child's log; empty when there is none."""
    if path is None or not path.exists():
        return ""
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-count:])
