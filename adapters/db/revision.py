"""Statements about the ledger's revision: a number that rises with every change that catalogs must see."""

from sqlalchemy import Connection, select, update

from adapters.db.notices import Topic, notify
from adapters.db.schema import ledger_revision


def raise_revision(tx: Connection) -> int:
    """Count one change of what can be served.

    The row's lock makes publishers wait for each other, so that revisions are committed in their order and a reader who
    has seen revision n has seen everything up to n.
    """
    revision: int = tx.execute(
        update(ledger_revision)
        .values(value=ledger_revision.c.value + 1)
        .returning(ledger_revision.c.value)
    ).scalar_one()
    notify(tx, Topic.SERVED)
    return revision


def hold_revision(tx: Connection) -> None:
    """Let nobody else change what can be served for the rest of the transaction.

    For those who look before they change, or change rows of checkpoints before they raise the revision: whoever
    publishes locks the revision first, and two who lock in different orders would wait for each other for ever.
    """
    tx.execute(select(ledger_revision.c.id).with_for_update()).all()


def current_revision(tx: Connection) -> int:
    """The newest revision."""
    revision: int = tx.execute(select(ledger_revision.c.value)).scalar_one()
    return revision
