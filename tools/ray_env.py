"""Sets up Ray in `.ray`, a folder of packages beside `.venv`: few want its 300 MB, and `.venv` is not to hold them.

Whoever has the folder on the path has Ray, with the Python of `.venv`. What both have is of one version: the lock is
bound by that of `.venv` on CPUs. `--lock` writes requirements/ray/ray.txt anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tools import install

FOLDER = install.ROOT / ".ray"
LOCK = install.REQUIREMENTS / "ray" / "ray.txt"
STAMP = FOLDER / "graft-installed"
BOUND_BY = "cpu.txt"


def main() -> None:
    """Lock, or install what is not there yet."""
    parser = argparse.ArgumentParser(description="Set up Ray.")
    parser.add_argument("--lock", action="store_true", help="write the lock anew")
    if parser.parse_args().lock:
        lock()
    elif not STAMP.is_file() or STAMP.read_text() != _fingerprint():
        print(f"Setting up {FOLDER} ...", flush=True)
        set_up(install.uv_environment(install.pip_settings()))
        STAMP.write_text(_fingerprint())


def environment(**more: str) -> dict[str, str]:
    """That of a process of `.venv` which is to find Ray, and what is in this checkout."""
    path = os.pathsep.join([str(install.ROOT), str(FOLDER)])
    return {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **more}


def set_up(environment: dict[str, str]) -> None:
    """The folder, with what the lock names."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    python = str(install.VENV / "bin" / "python")
    flags = ["--quiet", "--no-deps", "--no-build", "--require-hashes", "--target", str(FOLDER)]
    command = [_uv(), "pip", "install", "--python", python, *flags, "-r", str(LOCK)]
    install.run(command, environment, "installing Ray")


def lock() -> None:
    """Write the lock: pinned, hashed, each version at least a week old."""
    settings = install.pip_settings()
    settings.pop("extra-index-url", None)  # as in tools/lock.py
    LOCK.parent.mkdir(exist_ok=True)
    command = [_uv(), "pip", "compile", "--quiet", "-", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--exclude-newer", "7 days"]
    command += ["-c", f"requirements/{BOUND_BY}", "--output-file", str(LOCK)]
    done = subprocess.run(
        command,
        env=install.uv_environment(settings),
        cwd=install.ROOT,
        input="\n".join(wanted()),
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{LOCK.name} could not be locked; the reason is above.")


def wanted() -> list[str]:
    """What the extra `ray` of pyproject.toml asks for."""
    project = tomllib.loads((install.ROOT / "pyproject.toml").read_text())["project"]
    asked: list[str] = project["optional-dependencies"]["ray"]
    return asked


def _uv() -> str:
    return str(install.VENV / "bin" / "uv")


def _fingerprint() -> str:
    """Changes with all that decides what lies in the folder."""
    parts = [Path(__file__).read_bytes(), LOCK.read_bytes()]
    return hashlib.sha256(b"\0".join([sys.version.encode(), *parts])).hexdigest()


if __name__ == "__main__":
    main()
