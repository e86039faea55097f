"""How PostgreSQL is connected to."""

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text

from adapters.errors import InvalidValue

#: Longest wait for a connection of the pool; who has waited longer gets a 503.
_POOL_TIMEOUT_S = 10
#: As patient as with SQLite's write lock.
_LOCK_TIMEOUT_S = 30
#: A process that is stopped in the middle of a transaction would keep its locks for ever.
_IDLE_TIMEOUT_S = 30
_INSUFFICIENT_PRIVILEGE = "42501"
_DISK_FULL = "53100"
_WAYS = {
    "connect_timeout": 5,
    # A host that is gone says nothing: who listens notices after 25 s, who waits for an answer after 15.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "client_encoding": "utf8",
    "application_name": "graft",
    "options": f"-c lock_timeout={_LOCK_TIMEOUT_S}s"
    f" -c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_S}s",
}


def connect(url: URL, *, connections: int) -> Engine:
    """A pool of at most so many connections. None is made yet.

    Each is tried before it is used, at the price of a round trip: after a restart of the server nobody gets a dead one.

    Raises:
        InvalidValue: the driver is not installed.
    """
    ways = {key: value for key, value in _WAYS.items() if key not in url.query}
    try:
        engine = create_engine(
            url,
            connect_args=ways,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_S,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ModuleNotFoundError as error:
        raise InvalidValue(
            "ledger.database_url names PostgreSQL, and its driver is not installed: "
            "pip install 'graft[postgres]'"
        ) from error
    storable = _storable()

    def configure(connection: Any, _record: object) -> None:
        connection.adapters.register_dumper(str, storable)

    event.listen(engine, "connect", configure)
    return engine


def only_reading(engine: Engine) -> Engine:
    """The same pool, for transactions that see one moment of the database and write nothing."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def is_forbidden(error: BaseException | None) -> bool:
    """Whether the server says that the user lacks a privilege."""
    return getattr(error, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE


def is_full(error: BaseException | None) -> bool:
    """Whether the server says that its disk is full."""
    return getattr(error, "sqlstate", None) == _DISK_FULL


def require_unicode(tx: Connection) -> None:
    """Raise InvalidValue where the database cannot hold every text."""
    if tx.dialect.name != "postgresql":
        return
    encoding = tx.execute(text("SELECT current_setting('server_encoding')")).scalar_one()
    if encoding != "UTF8":
        raise InvalidValue(
            f"The database is in {encoding}, and graft needs UTF8: "
            "createdb --encoding=UTF8 --template=template0 graft"
        )


def _storable() -> type:
    from psycopg.types.string import StrDumper  # noqa: PLC0415  only where PostgreSQL is used

    class Storable(StrDumper):
        """PostgreSQL is the one database that holds no NUL in texts: one that has some is kept with another sign.

        Refusing it would be too late in places: whoever tells how a job ended would try again for ever.
        """

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    return Storable
