"""What a request is given where it leaves something open: by its base model, its version, or its adapter."""

from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

PresetName = Literal["none", "anti-repetition"]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]

#: Sampling parameters that have a name together.
PRESETS: Final = MappingProxyType(
    {
        "none": {},
        "anti-repetition": {
            "repetition_penalty": 1.2,
            "temperature": 0.7,
            "top_p": 0.9,
            "repetition_guard": True,
        },
    }
)


class Sampling(BaseModel):
    """Defaults for sampling parameters, within vLLM's ranges: a bad one would fail requests that never named it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    #: 0 and -1 mean all tokens.
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    #: 1 means none.
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    stop: list[_Stop] | None = Field(None, max_length=4)
    preset: PresetName | None = None
    repetition_guard: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What it has something to say about."""
        return self.model_dump(exclude_none=True)
