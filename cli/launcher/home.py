"""What the launcher keeps in the home folder: its lock, the table of processes, the log files."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

ROTATE_AT = 10 * 2**20
TAIL_BYTES = 4096


class HomeUnusable(Exception):
    """The home cannot be created or written to."""


class HomeLocked(HomeUnusable):
    """Another `graft up` holds this home."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder, and where in it things lie."""

    folder: Path

    @property
    def lock_file(self) -> Path:
        """Held by flock for as long as the launcher lives; inside: its pid."""
        return self.folder / "run" / "launcher.lock"

    @property
    def table_file(self) -> Path:
        """Name -> pid of every process that runs now, as JSON."""
        return self.folder / "run" / "processes.json"

    def log_file(self, name: str) -> Path:
        """Everything that the named process says, over all its restarts."""
        return self.folder / "logs" / f"{name}.log"

    def lock(self) -> TextIO:
        """Take the home; it is ours until the returned file is closed or this process ends, however it ends.

        Raises:
            HomeLocked: with the pid of who has it.
            HomeUnusable: it is not a folder that we may write to.
        """
        try:
            self.lock_file.parent.mkdir(parents=True, exist_ok=True)
            file = self.lock_file.open("a+")
        except OSError as error:
            raise HomeUnusable(f"Cannot use {self.folder} as home: {error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise HomeLocked(
                f"{self.folder} is in use by another `graft up` (pid {holder}). "
                f"Stop that one, or give this one a home of its own: --home DIR"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file

    def held(self) -> bool:
        """Does a launcher hold this home? Looking leaves no trace."""
        try:
            with self.lock_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except BlockingIOError:
            return True
        return False

    def write_table(self, pids: dict[str, int]) -> None:
        """Written aside and renamed: a reader sees the old table or the new one."""
        aside = self.table_file.with_suffix(".json.new")
        aside.write_text(json.dumps(pids, indent=2) + "\n")
        aside.replace(self.table_file)

    def read_table(self) -> dict[str, int]:
        """The last table written; empty if there is none. Its writer may be dead."""
        try:
            table: dict[str, int] = json.loads(self.table_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return table

    def open_log(self, name: str) -> BinaryIO:
        """The log, at its end; a big one is set aside first, in the place of the one set aside before."""
        path = self.log_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > ROTATE_AT:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")

    def last_lines(self, name: str, *, since: int, count: int = 5) -> list[str]:
        """The last lines of the log that were written after this offset."""
        path = self.log_file(name)
        if not path.exists():
            return []
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(since, end - TAIL_BYTES) if since <= end else 0)
            text = file.read().decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return lines[-count:]
