"""Statements about adapters, their versions and aliases."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, delete, insert, or_, select, update

from adapters.db import history
from adapters.db.owners import claim_name
from adapters.db.revision import raise_revision
from adapters.db.rows import dump_manifest, to_version
from adapters.db.schema import (
    adapters,
    aliases,
    checkpoints,
    verdicts,
    versions,
)
from adapters.db.shares import forget_shares, shared_with_me, shares_of
from adapters.db.tenancy import mine, owner, tenant_of
from adapters.errors import AdapterNotFound, AdapterReadOnly, InvalidRequest
from adapters.manifest import Manifest
from adapters.names import LIVE
from adapters.proof import Outcome
from adapters.records import Adapter, Version
from adapters.sharing import Use

_SHARED_TO_BE = {
    Use.CONTINUE: "asked",
    Use.DOWNLOAD: "used here",
    Use.CHANGE: "used",
}
_NOT_SHARED_FOR = {
    Use.CONTINUE: "It may not be continued",
    Use.DOWNLOAD: "Its files may not be fetched",
    Use.CHANGE: "Only its owner changes it",
}


def get_adapter(tx: Connection, name: str, use: Use = Use.CHANGE) -> Adapter:
    """Look an adapter up, to do that with it.

    Raises:
        AdapterNotFound: there is none of that name, or it has been deleted, or it is another tenant's and not shared.
        AdapterReadOnly: it is shared, and not for that.
    """
    found = _load(tx, adapters.c.name == name, adapters.c.deleted_at.is_(None))
    asking = tenant_of(tx)
    if not found or not found[0].allows(asking, Use.ASK):
        raise AdapterNotFound(f"No adapter is called '{name}'.", param="name")
    if not found[0].allows(asking, use):
        raise AdapterReadOnly(
            f"The adapter '{name}' is {found[0].tenant}'s, who shares it to be {_SHARED_TO_BE[use]}. "
            f"{_NOT_SHARED_FOR[use]}.",
            param="name",
        )
    return found[0]


def list_adapters(tx: Connection) -> list[Adapter]:
    """All that have not been deleted, by name: one's own, and what others share."""
    seen = or_(mine(tx, adapters), shared_with_me(tx))
    return _load(tx, adapters.c.deleted_at.is_(None), seen)


def changed_adapters(tx: Connection, *, since: int) -> list[Adapter]:
    """All that changed after the revision `since`; a deleted one comes without versions."""
    return _load(tx, adapters.c.revision > since, mine(tx, adapters))


def base_model_of(tx: Connection, name: str) -> str | None:
    """The base model that an adapter's versions belong to; None where the name is free."""
    query = select(adapters.c.base_model).where(
        adapters.c.name == name, adapters.c.deleted_at.is_(None)
    )
    return tx.execute(query).scalar()


def add_version(
    tx: Connection,
    name: str,
    manifest: Manifest,
    digest: str,
    now: float,
    *,
    tenant: str | None = None,
) -> Version:
    """Give out the adapter's next number and record the version under it, for a tenant or for the transaction's own.

    Raises:
        AdapterNameConflict: the name is another tenant's.
    """
    number = _next_number(tx, name, manifest.base.id, now, tenant or owner(tx))
    row = tx.execute(
        insert(versions)
        .values(
            adapter=name,
            number=number,
            base_model=manifest.base.id,
            digest=digest,
            job_id=manifest.job_id,
            rank=manifest.rank,
            manifest=dump_manifest(manifest),
            created_at=now,
        )
        .returning(versions)
    ).one()
    return to_version(row)


def find_import(tx: Connection, name: str, base_model: str, digest: str) -> Version | None:
    """The living version on that base model that was brought with files of that digest; None where there is none."""
    query = (
        select(versions)
        .join(adapters, adapters.c.name == versions.c.adapter)
        .where(
            mine(tx, adapters),
            versions.c.adapter == name,
            versions.c.base_model == base_model,
            versions.c.job_id.is_(None),
            versions.c.deleted_at.is_(None),
        )
        .order_by(versions.c.number)
    )
    for row in tx.execute(query):
        version = to_version(row)
        imported = version.manifest.imported
        if imported is not None and imported.digest == digest:
            return version
    return None


def set_alias(tx: Connection, name: str, alias: str, number: int, *, weight: float = 0.0) -> None:
    """Point an alias of the adapter at a version, with this share of the requests for the bare name.

    Raises:
        AdapterNotFound: the adapter has no such version, or it has been deleted.
    """
    known = (
        select(versions.c.number)
        .join(adapters, adapters.c.name == versions.c.adapter)
        .where(
            versions.c.adapter == name,
            versions.c.number == number,
            versions.c.deleted_at.is_(None),
            mine(tx, adapters),
        )
    )
    if tx.execute(known).first() is None:
        raise AdapterNotFound(f"There is no version {name}@{number}.", param="version")
    moved = tx.execute(
        update(aliases)
        .where(aliases.c.adapter == name, aliases.c.alias == alias)
        .values(number=number, weight=weight)
        .returning(aliases.c.number)
    ).first()
    if moved is None:
        tx.execute(insert(aliases).values(adapter=name, alias=alias, number=number, weight=weight))
    if alias == LIVE:
        history.remember(tx, name, number)
    touch(tx, name)


def remove_alias(tx: Connection, name: str, alias: str) -> None:
    """Remove an alias; one that is not there is no error."""
    tx.execute(delete(aliases).where(aliases.c.adapter == name, aliases.c.alias == alias))
    touch(tx, name)


def touch(tx: Connection, name: str, **values: Any) -> None:
    """Change the adapter's row, and let every catalog know that something of the adapter has changed."""
    revision = raise_revision(tx)
    changed = update(adapters).where(adapters.c.name == name, mine(tx, adapters))
    tx.execute(changed.values(revision=revision, **values))


def delete_adapter(tx: Connection, name: str, now: float) -> Adapter:
    """Delete an adapter with all its versions. Their files are purged later: an engine may be reading them.

    Raises:
        AdapterNotFound: there is none of that name.
    """
    adapter = get_adapter(tx, name)
    tx.execute(delete(aliases).where(aliases.c.adapter == name))
    history.forget(tx, name)
    tx.execute(
        update(versions)
        .where(versions.c.adapter == name, versions.c.deleted_at.is_(None))
        .values(deleted_at=now)
    )
    forget_shares(tx, name)
    touch(tx, name, deleted_at=now, sampling=None)
    return adapter


def delete_version(tx: Connection, name: str, number: int, now: float) -> Version:
    """Delete one version.

    Raises:
        AdapterNotFound: there is no such version.
        InvalidRequest: an alias points at it.
    """
    adapter = get_adapter(tx, name)
    version = adapter.version(number)
    if version is None:
        raise AdapterNotFound(f"There is no version {name}@{number}.", param="name")
    held = [alias for alias, target in adapter.aliases.items() if target == number]
    if held:
        advice = (
            "Promote another version first, or delete the whole adapter."
            if LIVE in held
            else "Remove that alias first, or point it at another version."
        )
        alias = LIVE if LIVE in held else held[0]
        raise InvalidRequest(f"{version.name} is '{alias}' of {name}. {advice}", param="name")
    tx.execute(
        update(versions)
        .where(versions.c.adapter == name, versions.c.number == number)
        .values(deleted_at=now)
    )
    touch(tx, name)
    return version


def purgeable_versions(tx: Connection, *, before: float) -> list[Version]:
    """Versions deleted before then, whose files still lie in the store."""
    query = select(versions).where(versions.c.deleted_at < before, versions.c.purged_at.is_(None))
    return [to_version(row) for row in tx.execute(query)]


def mark_purged(tx: Connection, version: Version, now: float) -> bool:
    """Record that the files go; False where something else still has the same bytes and they must stay."""
    tx.execute(
        update(versions)
        .where(versions.c.adapter == version.adapter, versions.c.number == version.number)
        .values(purged_at=now)
    )
    others = select(versions.c.number).where(
        versions.c.digest == version.digest, versions.c.purged_at.is_(None)
    )
    same = select(checkpoints.c.id).where(checkpoints.c.digest == version.digest)
    if any(tx.execute(query.limit(1)).first() for query in (others, same)):
        return False
    tx.execute(delete(verdicts).where(verdicts.c.digest == version.digest))
    return True


def _next_number(tx: Connection, name: str, base_model: str, now: float, tenant: str) -> int:
    revision = raise_revision(tx)  # also the lock that makes two claims of one name safe
    claim_name(tx, name, base_model, tenant, now)
    number: int = tx.execute(
        update(adapters)
        .where(adapters.c.name == name)
        .values(
            last_number=adapters.c.last_number + 1,
            base_model=base_model,
            revision=revision,
            created_at=case((adapters.c.last_number == 0, now), else_=adapters.c.created_at),
            deleted_at=None,
        )
        .returning(adapters.c.last_number)
    ).scalar_one()
    return number


def _load(tx: Connection, *conditions: Any) -> list[Adapter]:
    rows = tx.execute(select(adapters).where(*conditions).order_by(adapters.c.name)).all()
    names = [row.name for row in rows]
    living = _versions_of(tx, names)
    pointers = _aliases_of(tx, names)
    shares = shares_of(tx, names)
    return [
        Adapter(
            name=row.name,
            base_model=row.base_model,
            created_at=row.created_at,
            versions=tuple(living.get(row.name, ())) if row.deleted_at is None else (),
            aliases={one.alias: one.number for one in pointers.get(row.name, ())},
            weights={one.alias: one.weight for one in pointers.get(row.name, ()) if one.weight},
            sampling=row.sampling or {},
            tenant=row.tenant,
            shares=tuple(shares.get(row.name, ())),
        )
        for row in rows
    ]


# Why a version is not to be served; null where it may be.
_QUARANTINE = (
    select(verdicts.c.reason)
    .where(
        verdicts.c.digest == versions.c.digest,
        verdicts.c.outcome == Outcome.QUARANTINED.value,
    )
    .limit(1)
    .scalar_subquery()
    .label("quarantined")
)

# SQLite takes at most 32766 bound values; a page of names keeps every statement far below.
_PAGE = 1000


def _pages(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _PAGE] for start in range(0, len(names), _PAGE)]


def _versions_of(tx: Connection, names: Sequence[str]) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for page in _pages(names):
        query = (
            select(versions, _QUARANTINE)
            .where(versions.c.adapter.in_(page), versions.c.deleted_at.is_(None))
            .order_by(versions.c.adapter, versions.c.number)
        )
        for row in tx.execute(query):
            found.setdefault(row.adapter, []).append(to_version(row))
    return found


def _aliases_of(tx: Connection, names: Sequence[str]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    for page in _pages(names):
        for row in tx.execute(select(aliases).where(aliases.c.adapter.in_(page))):
            found.setdefault(row.adapter, []).append(row)
    return found
