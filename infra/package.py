"""Build dist/turnaround.zip: the app with its locked dependencies, for Linux on x86-64 and Python 3.13.

The package is built here because azd's remote build ran Python 3.11 for 3.13 apps (github.com/Azure/azure-dev, 8538)
and is given 60 seconds (learn.microsoft.com/azure/azure-functions/python-build-options). `azd up` calls this; it needs
nothing but Python 3.9 and the .venv that `make setup` makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SITE_PACKAGES = Path(".python_packages") / "lib" / "site-packages"
TOOLS = ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin")
PLATFORM = "x86_64-manylinux_2_28"


def ignored(path: Path, patterns: list[str]) -> bool:
    """Whether .funcignore leaves out this path, relative to the root: `/name` is at the root, `name` anywhere."""
    return any(
        fnmatch(path.parts[0], pattern[1:].rstrip("/"))
        if pattern.startswith("/")
        else any(fnmatch(part, pattern.rstrip("/")) for part in path.parts)
        for pattern in patterns
    )


def app_files(root: Path = ROOT) -> list[Path]:
    """The files of the app that are deployed, relative to the root, dependencies not counted."""
    lines = (root / ".funcignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = sorted(name for name in folders if not ignored(here / name, patterns))
        found += [here / name for name in sorted(files) if not ignored(here / name, patterns)]
    return found


def install_dependencies(target: Path) -> None:
    """Install requirements.txt as Azure will run it; compiled, as compiling at a cold start takes half a second."""
    uv = shutil.which("uv", path=str(TOOLS))
    if uv is None:
        sys.exit("There is no .venv with uv yet. Run `make setup` (or `python dev.py setup`) first.")
    command = [uv, "pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements.txt", "--target", target]
    command += ["--python-version", "3.13", "--python-platform", PLATFORM, "--only-binary", ":all:"]
    # Files get new times in the archive, so the compiled ones must not be tied to them.
    compiled = {"UV_COMPILE_BYTECODE": "1", "PYC_INVALIDATION_MODE": "UNCHECKED_HASH"}
    code = subprocess.call([str(part) for part in command], cwd=ROOT, env={**os.environ, **compiled})
    if code:
        sys.exit(f"The dependencies could not be installed (uv ended with {code}); its message is above.")


def copy_app(target: Path, root: Path = ROOT) -> None:
    """Copy the app's own files and compile them too: in Azure their folder is read-only, so that every cold start would
    do it again (learn.microsoft.com/azure/azure-functions/run-functions-from-deployment-package)."""
    for path in app_files(root):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / path)
    python = str(shutil.which("python", path=str(TOOLS)))
    subprocess.check_call([python, "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", str(target)])


def build() -> Path:
    """Build the package and say where it is."""
    staging = DIST / "packages"
    shutil.rmtree(staging, ignore_errors=True)
    copy_app(staging)
    install_dependencies(staging / SITE_PACKAGES)
    package = DIST / "turnaround.zip"
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(staging.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(staging))
    shutil.rmtree(staging)
    return package


if __name__ == "__main__":
    built = build()
    print(f"{built.relative_to(ROOT)}: {built.stat().st_size / 1e6:.0f} MB")
