"""Connections and transactions. The one door at which the database's own exceptions become ours."""

import copy
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError

from adapters.errors import Unavailable

_BUSY_TIMEOUT_S = 30
_BUSY_PAUSE_S = 0.01
_WRITING = "graft_writing"
#: The execution option that says for whom a transaction is; see `tenancy.py`.
TENANT = "graft_tenant"


class Conflict(Exception):
    """A unique constraint says that somebody else was first. For the ledger to settle; never leaves it."""


class Database:
    """A pool of connections with two kinds of transactions.

    On SQLite a writing transaction takes the write lock at its start (BEGIN IMMEDIATE): one that began by reading
    and is upgraded later fails at once with "database is locked" instead of waiting its turn.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        #: For whom transactions are; None is everybody.
        self.tenant: str | None = None
        self._engine = (
            _sqlite(url) if make_url(url).get_backend_name() == "sqlite" else _server(url)
        )

    def of(self, tenant: str) -> Self:
        """The same pool, with transactions for one tenant. It is closed with the one that it was taken from."""
        view = copy.copy(self)
        view.tenant = tenant
        return view

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with _translated(), self._engine.connect() as connection:
            reading = connection.execution_options(**{TENANT: self.tenant})
            with reading.begin():
                yield reading

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; commits on leaving, rolls back on an exception.

        Raises:
            Unavailable: the database cannot be reached, or stayed locked for too long.
            Conflict: a row of that key is there already.
        """
        with _translated(), self._engine.connect() as connection:
            writing = connection.execution_options(**{_WRITING: True, TENANT: self.tenant})
            with writing.begin():
                yield writing

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for migrations."""
        return self._engine

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict from error
    except OperationalError as error:
        raise Unavailable(
            f"The ledger's database does not answer: {error.orig}. Try again in a moment.",
            retry_after=2,
        ) from error


def _server(url: str) -> Engine:
    return create_engine(url, pool_pre_ping=True)


def _sqlite(url: str) -> Engine:
    database = make_url(url).database
    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # None: sqlite3 must not begin transactions by itself; _begin_sqlite does, and says which kind.
    connection.isolation_level = None
    _write_ahead(connection)
    # FULL: a commit that has been answered survives power loss, not only kill -9. About 1 ms a commit on an SSD.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _write_ahead(connection: Any) -> None:
    """Choose write-ahead logging, which the file then remembers.

    Of several connections that change the mode of a new file at once, SQLite tells all but one that it is locked,
    at once and whatever its timeout is: each holds a read lock that the others wait for, and waiting would be a
    deadlock (sqlite3_busy_handler's documentation). So the waiting is ours.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
