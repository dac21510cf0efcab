"""Child processes start, say that they are ready, and end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox import processes

READY = "import json, time; print('noise'); print(json.dumps({'event': 'ready', 'url': 'u'}), flush=True); "


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_ready_line_is_found_behind_other_lines_and_the_child_is_stopped() -> None:
    child = processes.spawn(python(READY + "time.sleep(60)"), stdout=subprocess.PIPE)
    assert processes.ready_line(child) == {"event": "ready", "url": "u"}
    processes.stop(child)
    assert child.returncode is not None
    assert processes.stop(child) == child.returncode


def test_a_child_that_ends_early_is_told_of_with_what_it_said(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('the reason', file=sys.stderr); sys.exit(3)"
    child = processes.spawn(python(code), stdout=subprocess.PIPE, stderr=tmp_path / "log")
    with pytest.raises(processes.ChildError, match=r"(?s)exit code 3.*out.*the reason"):
        processes.ready_line(child, stderr=tmp_path / "log")


def test_a_child_that_is_never_ready_is_stopped() -> None:
    child = processes.spawn(python("import time; time.sleep(60)"), stdout=subprocess.PIPE)
    with pytest.raises(processes.ChildError, match=r"not ready after 0\.1 seconds"):
        processes.ready_line(child, timeout=0.1)
    assert child.poll() is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to ignore")
def test_a_child_that_does_not_listen_is_killed_after_the_grace() -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "time.sleep(60)"
    child = processes.spawn(python(code), stdout=subprocess.PIPE)
    processes.ready_line(child)
    assert processes.stop(child, grace=0.1) < 0


def test_a_program_that_is_not_there_is_told_of() -> None:
    with pytest.raises(processes.ChildError, match="could not start no-such-program"):
        processes.spawn(["no-such-program"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    code = (
        "import subprocess, sys, time\nfrom sandbox import processes\n"
        "child = processes.spawn([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        'print(\'{"event": "ready", "pid": %d}\' % child.pid, flush=True)\ntime.sleep(60)'
    )
    parent = processes.spawn(python(code), stdout=subprocess.PIPE)
    pid = processes.ready_line(parent)["pid"]
    assert isinstance(pid, int)
    grandchild = psutil.Process(pid)
    processes.kill(parent)
    deadline = time.monotonic() + 10
    while grandchild.is_running() and grandchild.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.01)


def test_a_free_port_can_be_listened_on() -> None:
    assert 1024 < processes.free_port() < 65536
