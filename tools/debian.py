"""Installs a package of Debian or Ubuntu that the tests need, where this is root; anybody else is told what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path


def see_to(package: str, binaries: Callable[[], Path | None], *, missing: str) -> None:
    """Install the package unless `binaries` finds its programs. `missing` says what the tests lack without it."""
    if binaries() is not None:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise SystemExit(
            f"{missing} Install the package of your distribution, on Debian: sudo apt-get install {package}"
        )
    print(f"Installing {package} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([apt, "update", "--quiet"], env=environment, check=False)
    install = [apt, "install", "--quiet", "--yes", "--no-install-recommends", package]
    done = subprocess.run(install, env=environment, check=False)
    if done.returncode or binaries() is None:
        raise SystemExit(f"{package} could not be installed; the reason is above.")
