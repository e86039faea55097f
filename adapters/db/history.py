"""Statements about what was live before: a stack for each adapter, as an editor keeps one for undoing."""

from collections.abc import Set as AbstractSet

from sqlalchemy import Connection, Row, delete, insert, select, update

from adapters.db.schema import live_history, versions


def remember(tx: Connection, name: str, number: int) -> None:
    """Note that a version goes live. What had been undone is forgotten, unless this version is live anyway."""
    newest = _standing(tx, name)[:1]
    if newest and newest[0].number == number:
        return
    tx.execute(
        delete(live_history).where(live_history.c.adapter == name, live_history.c.undone.is_(True))
    )
    seq = newest[0].seq + 1 if newest else 1
    tx.execute(insert(live_history).values(adapter=name, seq=seq, number=number))


def step_back(tx: Connection, name: str, *, past: AbstractSet[int] = frozenset()) -> int | None:
    """Undo the newest entry; returns the one that stands then, which is neither deleted nor among `past`.

    None: there is none.
    """
    entries = _standing(tx, name)
    if not entries:
        return None
    newest, living = entries[0], _living(tx, name) - {entries[0].number} - past
    before = next((entry for entry in entries[1:] if entry.number in living), None)
    if before is None:
        return None
    mine = live_history.c.adapter == name
    between = (live_history.c.seq > before.seq) & (live_history.c.seq < newest.seq)
    tx.execute(delete(live_history).where(mine, between))
    undo = update(live_history).where(mine, live_history.c.seq == newest.seq)
    tx.execute(undo.values(undone=True))
    number: int = before.number
    return number


def last_undone(tx: Connection, name: str) -> int | None:
    """What was live until the newest step back; None where a version went live since, or nothing was undone."""
    query = (
        select(live_history.c.number)
        .where(live_history.c.adapter == name, live_history.c.undone.is_(True))
        .order_by(live_history.c.seq)
        .limit(1)
    )
    return tx.execute(query).scalar()


def forget(tx: Connection, name: str) -> None:
    """Drop the history of an adapter that is deleted."""
    tx.execute(delete(live_history).where(live_history.c.adapter == name))


def _standing(tx: Connection, name: str) -> list[Row[tuple[int, int]]]:
    """Entries that are not undone, newest first."""
    query = (
        select(live_history.c.seq, live_history.c.number)
        .where(live_history.c.adapter == name, live_history.c.undone.is_(False))
        .order_by(live_history.c.seq.desc())
    )
    return list(tx.execute(query))


def _living(tx: Connection, name: str) -> set[int]:
    query = select(versions.c.number).where(
        versions.c.adapter == name, versions.c.deleted_at.is_(None)
    )
    return set(tx.execute(query).scalars())
