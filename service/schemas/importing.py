"""What `POST /adapters` takes beside the files."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from adapters.sampling import Sampling
from service.schemas.fields import from_json


def _flag(value: Any) -> Any:
    """A form has only text."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of text without control characters")
    return text


Line = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_printable)]


class ImportOptions(BaseModel):
    """`POST /adapters`, less the archive."""

    model_config = ConfigDict(extra="forbid")

    name: str
    #: The first base model of the configuration where it is not given.
    base_model: str | None = None
    #: What the adapter calls its base model, where that is another name for the same.
    trained_on: Line | None = None
    #: Whether the bare name means it from now on.
    promote: Annotated[bool, Field(strict=True), BeforeValidator(_flag)] = True
    #: What requests to the version leave open.
    defaults: Annotated[Sampling, BeforeValidator(from_json)] = Sampling()


class SourceOptions(ImportOptions):
    """`POST /adapters` as JSON: where the files are."""

    source: Line
