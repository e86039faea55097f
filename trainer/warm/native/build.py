"""Compile files of C, and what they include from beside them, for this processor; once for each."""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
#: `-O3` takes three times as long to compile, and what comes out is no faster.
FLAGS = ("-std=c11", "-O2", "-ffp-contract=fast", "-fPIC", "-shared")
#: Clang has had the usual spelling for ARM since 2023 only.
TUNING = {"aarch64": "-mcpu=native", "arm64": "-mcpu=native"}
#: It takes three.
MOST_SECONDS = 60
CPUINFO = Path("/proc/cpuinfo")
#: What tells one processor from another there.
TELLING = ("vendor_id", "cpu family", "model", "flags", "CPU ", "Features")


class CannotBuild(OSError):
    """There is no compiler, it fails, or there is no safe place for what it makes."""


def build(sources: Sequence[Path], folder: Path) -> Path:
    """One shared library of all, which lies in the folder under a name that tells of sources, compiler and processor.

    Raises:
        CannotBuild: there will not be one.
        OSError: reading or writing failed.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CannotBuild("there is no C compiler")
    tuning = TUNING.get(platform.machine(), "-march=native")
    command = [compiler, *FLAGS, tuning]
    beside = {path for source in sources for path in source.parent.glob("*.[ch]")}
    files = [path.read_text() for path in sorted(beside)]
    known = [_run([compiler, "--version"]), " ".join(command), _processor(), *files]
    digest = hashlib.sha256("\0".join(known).encode()).hexdigest()
    target = _private(folder) / f"kernels-{digest[:32]}.so"
    if not target.exists():
        # Whole or not at all, also where several processes compile it.
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / target.name
            _run([*command, "-o", str(made), *map(str, sources)])
            made.replace(target)
    return target


def _private(folder: Path) -> Path:
    """The folder, which nobody else may write to: what lies there is run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CannotBuild(f"others may write to {folder}")
    return folder


def _processor() -> str:
    """Its model and what it can, as Linux tells; elsewhere its family."""
    try:
        first = CPUINFO.read_text().split("\n\n", 1)[0]
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(TELLING))


def _run(command: list[str]) -> str:
    """What it says. Raises CannotBuild."""
    try:
        done = subprocess.run(  # noqa: S603  a compiler, and a file of ours
            command, capture_output=True, text=True, check=True, timeout=MOST_SECONDS
        )
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"the C compiler says: {error.stderr.strip()[:500]}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotBuild("the C compiler takes too long") from error
    return done.stdout
