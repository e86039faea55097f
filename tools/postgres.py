"""Sees to it that PostgreSQL is installed, of which the tests start a server of their own.

It is looked for on PATH and where Debian puts it. Where it is not, and this is root on Debian or Ubuntu, their package
is installed; anybody else is told what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
PROGRAMS = ("initdb", "postgres")
PACKAGE = "postgresql"


def main() -> None:
    """Install what is not there yet."""
    if binaries() is not None:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise SystemExit(
            "The tests need PostgreSQL's server programs (initdb, postgres), and they are neither on PATH nor in "
            f"{DEBIAN}. Install the package of your distribution, on Debian: sudo apt-get install {PACKAGE}"
        )
    print(f"Installing {PACKAGE} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([apt, "update", "--quiet"], env=environment, check=False)
    install = [apt, "install", "--quiet", "--yes", "--no-install-recommends", PACKAGE]
    done = subprocess.run(install, env=environment, check=False)
    if done.returncode or binaries() is None:
        raise SystemExit(f"{PACKAGE} could not be installed; the reason is above.")


def binaries() -> Path | None:
    """The folder with the server's programs, of the newest release that Debian's packages have installed."""
    releases = sorted(DEBIAN.glob("*/bin"), key=_release, reverse=True)
    on_path = [Path(found).parent for found in [shutil.which("postgres")] if found]
    folders = (folder for folder in [*releases, *on_path] if _complete(folder))
    return next(folders, None)


def _complete(folder: Path) -> bool:
    return all((folder / program).is_file() for program in PROGRAMS)


def _release(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdecimal() else 0


if __name__ == "__main__":
    main()
