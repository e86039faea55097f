"""Bring the database to the schema of this release."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from adapters.db.connect import Database
from adapters.db.locks import Turn, take_turn
from adapters.db.postgres import require_unicode

HEAD = "0011"
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Upgrade to HEAD; does nothing, and imports nothing heavy, where that has been done.

    Safe to call from several processes at once: whoever comes first upgrades, the others wait and find it done.
    """
    with database.read() as tx:
        if _revision(tx) == HEAD:
            return
    # Alembic costs 0.2 s to import, and the service wants to answer within two seconds of its start.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    # Its plugins announce themselves at INFO, one line each.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    with database.write() as tx:
        take_turn(tx, Turn.MIGRATING)
        if _revision(tx) == HEAD:
            return
        require_unicode(tx)
        config.attributes["connection"] = tx
        command.upgrade(config, "head")


def _revision(tx: Connection) -> str | None:
    if not inspect(tx).has_table("alembic_version"):
        return None
    return tx.execute(text("SELECT version_num FROM alembic_version")).scalar()
