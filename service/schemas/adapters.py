"""Adapters and models on the wire."""

from typing import Any, Literal

from pydantic import BaseModel

from adapters.records import Adapter, Version


class WireVersion(BaseModel):
    """One immutable version."""

    name: str
    number: int
    created_at: int
    rank: int
    digest: str
    job_id: str | None
    #: The version that it continues, `name@N`.
    parent: str | None
    #: None, like the losses, for what was brought here.
    method: str | None
    train_loss: float | None
    valid_loss: float | None
    base_valid_loss: float | None
    resident: bool
    #: Whether it was trained elsewhere.
    imported: bool
    #: Its own sampling defaults, as its manifest has them.
    defaults: dict[str, Any]
    #: Why it does not answer; None where it does.
    quarantined: str | None


class WireAdapterEntry(BaseModel):
    """An adapter with its versions, oldest first."""

    object: Literal["adapter"]
    name: str
    base_model: str
    created_at: int
    live: str | None
    aliases: dict[str, int]
    #: Shares of the requests for the bare name, of `canary` and `shadow`.
    weights: dict[str, float]
    #: What requests for the adapter are given where they leave something open.
    defaults: dict[str, Any]
    #: Whether other tenants may use it too; and whose it is.
    shared: bool
    owner: str
    versions: list[WireVersion]


class WireAdapterList(BaseModel):
    """All adapters."""

    object: Literal["list"]
    data: list[WireAdapterEntry]
    has_more: bool


class WireImport(WireAdapterEntry):
    """The answer to an import: the adapter, and which of its versions the files have made."""

    version: str
    warnings: list[str]


class WireDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: str
    deleted: bool


def wire_adapter(
    adapter: Adapter, resident: frozenset[str], *, asking: str | None = None
) -> WireAdapterEntry:
    """The adapter as clients see it. With whom it is not its own, `asking`, its job and its parents stay unnamed."""
    own = asking in {None, adapter.tenant}
    return WireAdapterEntry(
        object="adapter",
        name=adapter.name,
        base_model=adapter.base_model,
        created_at=int(adapter.created_at),
        live=adapter.live.name if adapter.live else None,
        aliases=adapter.aliases,
        weights=adapter.weights,
        defaults=adapter.sampling,
        shared=adapter.shared,
        owner=adapter.tenant,
        versions=[_version(version, resident, own=own) for version in adapter.versions],
    )


def wire_import(adapter: Adapter, version: Version, resident: frozenset[str]) -> WireImport:
    """What has become of the files that somebody brought."""
    imported = version.manifest.imported
    return WireImport(
        **wire_adapter(adapter, resident).model_dump(),
        version=version.name,
        warnings=list(imported.warnings) if imported else [],
    )


def model_card(model_id: str, *, created: float, parent: str | None = None) -> dict[str, Any]:
    """An entry of `GET /v1/models`; `parent` is the base model of an adapter."""
    return {
        "id": model_id,
        "object": "model",
        "created": int(created),
        "owned_by": "graft",
        "root": parent or model_id,
        "parent": parent,
    }


def _version(version: Version, resident: frozenset[str], *, own: bool) -> WireVersion:
    manifest, result = version.manifest, version.manifest.result
    return WireVersion(
        name=version.name,
        number=version.number,
        created_at=int(version.created_at),
        rank=version.rank,
        digest=version.digest,
        job_id=version.job_id if own else None,
        parent=manifest.parent if own else None,
        method=manifest.method if result else None,
        train_loss=result.train_loss if result else None,
        valid_loss=result.published_valid_loss if result else None,
        base_valid_loss=result.base_valid_loss if result else None,
        resident=version.name in resident,
        imported=manifest.imported is not None,
        defaults=version.manifest.default_sampling,
        quarantined=version.quarantined,
    )
