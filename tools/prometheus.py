"""Sees to it that Prometheus is installed, which the tests let scrape what they start, and whose promtool tests alerts.

It is looked for on PATH. Where it is not, and this is root on Debian or Ubuntu, their package is installed; anybody
else is told what to install. No server of the package's own is started or wanted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tools import debian

PROGRAMS = ("prometheus", "promtool")
PACKAGE = "prometheus"


def main() -> None:
    """Install what is not there yet."""
    debian.see_to(
        PACKAGE,
        binaries,
        missing=("The tests need Prometheus (prometheus, promtool), and it is not on PATH."),
    )


def binaries() -> Path | None:
    """The folder with both programs."""
    found = [shutil.which(program) for program in PROGRAMS]
    folders = {Path(one).parent for one in found if one}
    return folders.pop() if all(found) and len(folders) == 1 else None


if __name__ == "__main__":
    main()
