"""Connections and transactions. The one door at which the database's own exceptions become ours."""

import copy
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InternalError,
    OperationalError,
    TimeoutError as NoConnectionLeft,
)
from sqlalchemy.pool import ConnectionPoolEntry

from adapters.db import postgres
from adapters.db.urls import SQLITE, read_url
from adapters.errors import InvalidValue, StorageFull, Unavailable

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 30
#: Whoever has been answered with 503 comes back after so many seconds.
_RETRY_AFTER_S = 2
_FULL_RETRY_AFTER_S = 60
#: An outage is many errors; the log has one of them in so many seconds.
_COMPLAIN_S = 5.0
_BUSY_PAUSE_S = 0.01
_WRITING = "graft_writing"
#: The execution option that says for whom a transaction is; see `tenancy.py`.
TENANT = "graft_tenant"


class Conflict(Exception):
    """A unique constraint says that somebody else was first. For the ledger to settle; never leaves it."""


class Database:
    """A pool of connections with two kinds of transactions.

    On SQLite a writing transaction takes the write lock at its start (BEGIN IMMEDIATE): one that began by reading
    and is upgraded later fails at once with "database is locked" instead of waiting its turn. PostgreSQL locks rows,
    and whoever writes asks for the lock that his decision rests on.

    Raises:
        InvalidValue: the URL is none, or of a database that graft does not know.
    """

    def __init__(
        self, url: str, *, connections: int = 10, committed: Callable[[], None] = lambda: None
    ) -> None:
        """`committed` is called after each transaction that may have written, in its thread."""
        parsed = read_url(url)
        self._committed = committed
        #: For whom transactions are; None is everybody.
        self.tenant: str | None = None
        if parsed.drivername == SQLITE:
            self._engine = self._reader = _sqlite(parsed)
        else:
            self._engine = postgres.connect(parsed, connections=connections)
            self._reader = postgres.only_reading(self._engine)
        self._complained = -_COMPLAIN_S

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
        with self._translated(), self._reader.connect() as connection:
            reading = connection.execution_options(**{TENANT: self.tenant})
            with reading.begin():
                yield reading

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; commits on leaving, rolls back on an exception.

        Raises:
            Unavailable: the database cannot be reached, or stayed locked for too long. Where it went away during the
                commit, nobody knows whether that was still done.
            Conflict: a row of that key is there already.
            InvalidValue: a number is too large for its column, or a text too long.
        """
        with self._translated(), self._engine.connect() as connection:
            writing = connection.execution_options(**{_WRITING: True, TENANT: self.tenant})
            with writing.begin():
                yield writing
        self._committed()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for whoever listens."""
        return self._engine

    def close(self) -> None:
        """Close the pooled connections, and one that a thread still uses, for which nobody waits, when it comes back.

        SQLAlchemy would leave that one open until it is collected as garbage.
        """
        event.listen(self._engine, "checkin", _close_connection)
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise Conflict from error
        except DataError as error:
            raise InvalidValue(f"The database cannot hold this: {_first_line(error)}.") from error
        except NoConnectionLeft as error:
            raise self._unavailable(str(error)) from error
        except (OperationalError, InternalError) as error:
            full = _is_full(error.orig)
            raise self._unavailable(_first_line(error), full=full) from error
        except DBAPIError as error:
            if postgres.is_forbidden(error.orig):
                raise InvalidValue(
                    f"The user of ledger.database_url may not do what is needed: {_first_line(error)}."
                ) from error
            if error.connection_invalidated:
                raise self._unavailable(_first_line(error)) from error
            raise

    def _unavailable(self, reason: str, *, full: bool = False) -> Unavailable:
        # The reason is for the log: it names hosts and users, which are nothing to those who ask.
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_S:
            self._complained = now
            log.warning("the database does not answer: %s", reason)
        if full:
            return StorageFull(
                "The disk of the ledger's database is full, and nothing was stored.",
                retry_after=_FULL_RETRY_AFTER_S,
            )
        return Unavailable(
            "The ledger's database does not answer. Try again in a moment.",
            retry_after=_RETRY_AFTER_S,
        )


def _close_connection(_connection: object, entry: ConnectionPoolEntry) -> None:
    entry.close()


def _is_full(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_FULL or postgres.is_full(error)


def _first_line(error: DBAPIError) -> str:
    """What the driver says, which is never a password."""
    return str(error.orig).partition("\n")[0].rstrip(".")


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S}, hide_parameters=True)
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
