"""Whom an adapter is shared with, and what that lets them do. Its owner may do everything with it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: Instead of a tenant's name, which cannot be this: every tenant.
EVERYBODY: Final = "*"


class Use(StrEnum):
    """What somebody wants with an adapter."""

    #: Ask it, and see what there is to know of it.
    ASK = "ask"
    #: Train on from it, into a name of one's own.
    CONTINUE = "continue"
    #: Fetch its files.
    DOWNLOAD = "download"
    #: Delete it, promote a version, share it. Never shared.
    CHANGE = "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a tenant, or everybody, may do with somebody else's adapter. Asking it is always part of it."""

    tenant: str
    may_continue: bool = False
    may_download: bool = False
    created_at: float = 0.0

    def is_for(self, tenant: str) -> bool:
        """Whether it speaks of that tenant."""
        return self.tenant in {tenant, EVERYBODY}

    def allows(self, use: Use) -> bool:
        """Whether it is good for that."""
        if use is Use.CONTINUE:
            return self.may_continue
        if use is Use.DOWNLOAD:
            return self.may_download
        return use is Use.ASK
