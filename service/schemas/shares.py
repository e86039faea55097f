"""Shares of adapters on the wire."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from adapters.keys import check_tenant
from adapters.sharing import EVERYBODY, Share


class ShareOptions(BaseModel):
    """With whom to share an adapter, and what for besides asking it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: A tenant's name, or `*` for everybody.
    tenant: str
    may_continue: bool = False
    may_download: bool = False

    @field_validator("tenant")
    @classmethod
    def _of_somebody(cls, tenant: str) -> str:
        return tenant if tenant == EVERYBODY else check_tenant(tenant)

    def share(self) -> Share:
        """What the ledger is told."""
        return Share(
            tenant=self.tenant, may_continue=self.may_continue, may_download=self.may_download
        )


class WireShare(BaseModel):
    """What a tenant, or everybody (`*`), may do with an adapter besides asking it."""

    object: Literal["adapter.share"]
    tenant: str
    may_continue: bool
    may_download: bool
    created_at: int


class WireShareList(BaseModel):
    """With whom an adapter is shared."""

    object: Literal["list"]
    data: list[WireShare]
    has_more: bool


def wire_share(share: Share) -> WireShare:
    """The share as its adapter's owner sees it."""
    return WireShare(
        object="adapter.share",
        tenant=share.tenant,
        may_continue=share.may_continue,
        may_download=share.may_download,
        created_at=int(share.created_at),
    )
