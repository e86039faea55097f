"""A real PostgreSQL server in a folder of its own, and databases on it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

from adapters.db.connect import Database
from adapters.db.migrate import migrate

_START_S = 60.0
_TEMPLATE = "template_graft"
PASSWORD = "p@ss/word-0"
_SETTINGS = {
    # What dies in tests are processes, and what a process has written the kernel keeps. Commits wait for that.
    "fsync": "off",
    "synchronous_commit": "on",
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
}


class Server:
    """Started by `start`, killed by `crash`, removed by `remove`.

    A root starts it as the user postgres, or as nobody: PostgreSQL refuses to be root.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="graft-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._account = _account() if os.geteuid() == 0 else None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._init()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [*self._as_account(), str(self._binaries / "postgres"), "-D", str(self._data)]
        command += ["-k", str(self._folder), "-p", str(self.port)]
        command += [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        self._wait()

    def crash(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does: every connection is cut, nothing is written, no good-bye."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_START_S)

    def require_up(self) -> None:
        """Start it if it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def remove(self) -> None:
        """Kill it, with all that is in it."""
        self.crash()
        shutil.rmtree(self._folder)

    def create(self, *, migrated: bool) -> str:
        """The name of a new database."""
        name = f"graft_{next(self._names)}"
        template = self._template() if migrated else "template0"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """By its Unix socket."""
        return f"postgresql://graft@/{name}?host={self._folder}&port={self.port}"

    def tcp_url(self, name: str, password: str = PASSWORD) -> str:
        """By loopback, with a password."""
        return f"postgresql://graft:{quote(password, safe='')}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """What a statement gives, if anything."""
        with psycopg.connect(
            host=str(self._folder), port=self.port, user="graft", dbname=database, autocommit=True
        ) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _init(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._account is not None:
            for path in (self._folder, password):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        # Text is not compared byte by byte, as with the locales that people have.
        locale = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        command = [
            str(self._binaries / "initdb"),
            "-D",
            str(self._data),
            "-U",
            "graft",
            "-E",
            "UTF8",
        ]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"]
        done = subprocess.run(
            [*self._as_account(), *command, "--no-sync", *locale],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._folder,
        )
        assert done.returncode == 0, done.stderr

    def _template(self) -> str:
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'"):
            self.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            database = Database(self.url(_TEMPLATE))
            migrate(database)
            database.close()
        return _TEMPLATE

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def _as_account(self) -> list[str]:
        # Should the tests be killed, the kernel takes the server along.
        command = ["setpriv", "--pdeathsig=QUIT"]
        if self._account is not None:
            ids = [f"--reuid={self._account.pw_uid}", f"--regid={self._account.pw_gid}"]
            command += [*ids, "--clear-groups"]
        return command


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
