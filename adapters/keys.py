"""API keys, and whose they are.

A key is 256 random bits, so a plain SHA-256 of it may lie in the database: there is nothing to guess. It is looked up
by that digest, and so the time that this takes tells nobody how much of a wrong key was right.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

from adapters.errors import InvalidValue

PREFIX = "graft-"
_RANDOM_BYTES = 32
_SECRET = re.compile(r"graft-[A-Za-z0-9_-]{43}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
#: How much of a key is kept in the clear, to tell keys apart.
_HINT = 4


class Scope(StrEnum):
    """What a key is good for. None of them includes another."""

    #: Ask models, and see which there are.
    INFER = "infer"
    #: Files, jobs, adapters, webhooks.
    TUNE = "tune"
    #: Everybody's keys, and the metrics.
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key as it is asked for."""

    tenant: str
    scopes: tuple[Scope, ...]
    name: str = ""
    #: Seconds until it is good for nothing.
    lifetime: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as it is known: by its digest, never by itself."""

    id: str
    tenant: str
    name: str
    digest: str = field(repr=False)
    #: Its last characters.
    hint: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None
    #: Coarse: some minutes may pass before a use is noted.
    last_used_at: float | None
    revoked_at: float | None

    def good(self, now: float) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeKey:
    """A key that was just made. The only thing that has the secret."""

    key: Key
    secret: str = field(repr=False)


def new_secret() -> str:
    """A fresh key, such as `graft-Jx0…`."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hint_of(secret: str) -> str:
    """What is shown of a key."""
    return secret[-_HINT:]


def could_be_key(secret: str) -> bool:
    """Whether it has a key's form; what has not need not be looked up."""
    return _SECRET.fullmatch(secret) is not None


def check_tenant(tenant: str) -> str:
    """Return `tenant` if one may be called that, else raise InvalidValue saying why not."""
    if not _TENANT.fullmatch(tenant):
        raise InvalidValue(
            f"'{tenant:.80}' cannot be a tenant: use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit.",
            param="tenant",
        )
    return tenant
