"""Which database a URL means."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from adapters.errors import InvalidValue

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
_DRIVERS = {
    "sqlite": SQLITE,
    "sqlite+pysqlite": SQLITE,
    "postgres": POSTGRESQL,
    "postgresql": POSTGRESQL,
    POSTGRESQL: POSTGRESQL,
}
_EXAMPLE = "ledger.database_url must look like postgresql://user:password@host:5432/graft"


def read_url(url: str) -> URL:
    """Parse it, with the driver that is used here. No error of this says what is in it: there may be a password.

    Raises:
        InvalidValue: it is no URL, or of a database that graft does not know.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidValue(f"{_EXAMPLE}, and what is there is no such URL.") from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise InvalidValue(f"{_EXAMPLE}. Databases called '{parsed.drivername}' are not supported.")
    return parsed.set(drivername=driver)
