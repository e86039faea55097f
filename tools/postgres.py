"""Sees to it that PostgreSQL is installed, of which the tests start a server of their own.

It is looked for on PATH and where Debian puts it. Where it is not, and this is root on Debian or Ubuntu, their package
is installed; anybody else is told what to install.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tools import debian

DEBIAN = Path("/usr/lib/postgresql")
PROGRAMS = ("initdb", "postgres")
PACKAGE = "postgresql"


def main() -> None:
    """Install what is not there yet."""
    debian.see_to(
        PACKAGE,
        binaries,
        missing=(
            "The tests need PostgreSQL's server programs (initdb, postgres), and they are neither on PATH nor in "
            f"{DEBIAN}."
        ),
    )


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
