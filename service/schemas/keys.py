"""API keys on the wire."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapters.errors import InvalidValue
from adapters.keys import Key, MadeKey, NewKey, Scope, check_tenant

_A_CENTURY_S = 100 * 366 * 86_400


def _tenant(tenant: str) -> str:
    try:
        return check_tenant(tenant)
    except InvalidValue as error:
        raise ValueError(error.message) from error


def _once(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


class KeyOptions(BaseModel):
    """What `POST /v1/keys` takes."""

    model_config = ConfigDict(extra="forbid")

    tenant: Annotated[str, AfterValidator(_tenant)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=10), AfterValidator(_once)]
    name: str = Field("", max_length=200)
    expires_in_seconds: int | None = Field(None, ge=1, le=_A_CENTURY_S)

    def new_key(self) -> NewKey:
        """The same as a record."""
        return NewKey(
            tenant=self.tenant,
            scopes=tuple(self.scopes),
            name=self.name,
            lifetime=self.expires_in_seconds,
        )


class WireKey(BaseModel):
    """A key, without itself."""

    id: str
    object: Literal["api_key"]
    tenant: str
    name: str
    scopes: list[Scope]
    #: `graft-...` and the last characters.
    hint: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None


class WireMadeKey(WireKey):
    """A key that was just made: `key` is shown here and never again."""

    key: str


class WireKeyList(BaseModel):
    """A page of keys."""

    object: Literal["list"]
    data: list[WireKey]
    has_more: bool
    first_id: str | None
    last_id: str | None


def wire_key(key: Key) -> WireKey:
    """The key as the operator sees it."""
    return WireKey(**_shown(key))


def wire_made_key(made: MadeKey) -> WireMadeKey:
    """The key as it is shown once."""
    return WireMadeKey(**_shown(made.key), key=made.secret)


def _shown(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "object": "api_key",
        "tenant": key.tenant,
        "name": key.name,
        "scopes": list(key.scopes),
        "hint": f"graft-...{key.hint}",
        "created_at": int(key.created_at),
        "expires_at": _whole(key.expires_at),
        "last_used_at": _whole(key.last_used_at),
        "revoked_at": _whole(key.revoked_at),
    }


def _whole(time: float | None) -> int | None:
    return None if time is None else int(time)
