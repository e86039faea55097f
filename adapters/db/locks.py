"""What only one process may be at, at a time, where locks of rows do not help: there is no row yet, or too many."""

from enum import IntEnum

from sqlalchemy import Connection, func, select, text

#: Whoever else uses advisory locks in the same database uses other numbers, we hope: these are "graft" in ASCII.
_OURS = 0x67_72_61_66


class Turn(IntEnum):
    """What is taken turns at."""

    MIGRATING = 1
    SUBMITTING = 2


def take_turn(tx: Connection, turn: Turn) -> None:
    """Wait until nobody else is at it, and be at it for the rest of the transaction.

    On SQLite a writing transaction is alone anyway.
    """
    if tx.dialect.name != "postgresql":
        return
    if turn is Turn.MIGRATING:
        tx.execute(text("SET LOCAL lock_timeout = 0"))  # a migration may take its time
    tx.execute(select(func.pg_advisory_xact_lock(_OURS, int(turn))))


def take_turn_of(tx: Connection, tenant: str) -> None:
    """The same at taking a tenant's room. Two whose names have one hash wait for each other, and no harm is done."""
    if tx.dialect.name != "postgresql":
        return
    named = func.hashtextextended(f"graft/room/{tenant}", 0)
    tx.execute(select(func.pg_advisory_xact_lock(named)))
