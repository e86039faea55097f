"""What may be asked of an adapter's aliases."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Number = Annotated[int, Field(ge=1, lt=2**31)]
#: The version that it points at so far, 0 for none: else 409.
Expected = Annotated[int | None, Field(ge=0, lt=2**31)]


class AliasOptions(BaseModel):
    """`PUT /adapters/{name}/aliases/{alias}`."""

    model_config = ConfigDict(extra="forbid")

    version: _Number
    #: The share of the requests for the bare name; of `canary` and `shadow` only.
    weight: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    expected: Expected = None


class PromoteOptions(BaseModel):
    """`POST /adapters/{name}/promote`: a version by its number, or the one that an alias points at."""

    model_config = ConfigDict(extra="forbid")

    version: _Number | None = None
    alias: str | None = None
    expected: Expected = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.version is None) == (self.alias is None):
            raise ValueError("name a 'version' or an 'alias', one of both")
        return self

    @property
    def chosen(self) -> int:
        """The version's number, where no alias is named."""
        assert self.version is not None
        return self.version


class RollbackOptions(BaseModel):
    """`POST /adapters/{name}/rollback`."""

    model_config = ConfigDict(extra="forbid")

    #: The version to go back from.
    expected: Expected = None
