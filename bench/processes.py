"""Our own processes under measurement: started as they are in service, ended whatever happens."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from adapters.settings import LedgerSettings

_LOOK_S = 0.05


def configure(ledger: LedgerSettings, directory: Path) -> Path:
    """Write a configuration file that says what `ledger` says."""
    path = directory / "graft.yaml"
    models = [model.model_dump() for model in ledger.base_models]
    path.write_text(json.dumps({"ledger": {"home": str(ledger.home), "base_models": models}}))
    return path


def python(config: Path, *arguments: str, **environment: str) -> list[str]:
    """The command line of one of our modules under that configuration, and no other.

    Whatever the caller's environment says of database or home is left out: a benchmark must not write there.
    """
    return [
        "env",
        *("-u", "GRAFT_DATABASE_URL", "-u", "GRAFT_HOME", "-u", "GRAFT_BASE_MODELS"),
        f"GRAFT_CONFIG={config}",
        *(f"{name}={value}" for name, value in environment.items()),
        *(sys.executable, "-m", *arguments),
    ]


@contextmanager
def running(
    command: Sequence[str], log: Path, *, inherit: Sequence[int] = (), grace: float = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, with standard input open to it and all that it says in `log`. Killed at the end.

    With `grace` it is asked to end first, and killed only if it has not after so many seconds.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=list(inherit),
        ) as process,
    ):
        try:
            yield process
        except BaseException as error:
            error.add_note(f"{' '.join(command)} said:\n{log.read_text()[-2000:]}")
            raise
        finally:
            if grace:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
            process.kill()


async def until_ready(
    session: aiohttp.ClientSession,
    url: str,
    *processes: subprocess.Popen[bytes],
    patience: float,
) -> None:
    """Return once the service there says that its engines answer.

    Raises:
        TimeoutError: it does not within so many seconds.
        AssertionError: one of the processes that it takes has ended.
    """
    async with asyncio.timeout(patience):
        while not await _ready(session, url):
            for process in processes:
                assert process.poll() is None, f"{process.args} has ended"
            await asyncio.sleep(_LOOK_S)


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


def free_port() -> int:
    """A TCP port of this machine that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far, all its threads, in user and kernel mode; in steps of 10 ms. Linux only."""
    # The name of the program, in brackets, may have blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
