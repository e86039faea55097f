"""Sees to it that Prometheus is installed, which the tests let scrape what they start, and whose promtool tests alerts.

It is looked for on PATH. Where it is not, and this is root on Debian or Ubuntu, their package is installed; anybody
else is told what to install. No server of the package's own is started or wanted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("prometheus", "promtool")
PACKAGE = "prometheus"


def main() -> None:
    """Install what is not there yet."""
    if binaries() is not None:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise SystemExit(
            "The tests need Prometheus (prometheus, promtool), and it is not on PATH. Install the package of your "
            f"distribution, on Debian: sudo apt-get install {PACKAGE}"
        )
    print(f"Installing {PACKAGE} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([apt, "update", "--quiet"], env=environment, check=False)
    install = [apt, "install", "--quiet", "--yes", "--no-install-recommends", PACKAGE]
    done = subprocess.run(install, env=environment, check=False)
    if done.returncode or binaries() is None:
        raise SystemExit(f"{PACKAGE} could not be installed; the reason is above.")


def binaries() -> Path | None:
    """The folder with both programs."""
    found = [shutil.which(program) for program in PROGRAMS]
    folders = {Path(one).parent for one in found if one}
    return folders.pop() if all(found) and len(folders) == 1 else None


if __name__ == "__main__":
    main()
