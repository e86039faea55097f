"""Names of adapters, and what `model` may say: `support-bot`, `support-bot@3`, or as OpenAI names what a job made.

ft:{base model}:{organisation}:{adapter}:{end of the job's id}
ft:{base model}:{organisation}:{adapter}:{end of the job's id}:ckpt-step-{N}
"""

import re
import secrets
from dataclasses import dataclass
from typing import Self

from adapters.errors import InvalidValue

LIVE = "live"
#: The aliases that may take a share of the requests for the bare name: instead of the live version, or beside it.
CANARY = "canary"
SHADOW = "shadow"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
#: vLLM 0.32 applies an adapter called like a content part to requests for the base model; refused here for good.
RESERVED = frozenset(
    {
        "text",
        "image",
        "image_url",
        "audio",
        "video",
        "input",
        "input_audio",
        "base",
        "default",
        "live",
    }
)
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


#: The organisation in OpenAI's names.
ORGANISATION = "graft"
_OF_JOB = 8
_FINE_TUNED = re.compile(
    r"ft:(?P<base>[^:]+):(?P<owner>[^:]*):(?P<adapter>[^:]*):(?P<job>[0-9A-Za-z]{8})(:ckpt-step-(?P<step>[0-9]{1,12}))?"
)


@dataclass(frozen=True, slots=True)
class FineTunedName:
    """What a job has made, as OpenAI names it."""

    base_model: str
    adapter: str
    #: The last characters of the job's id.
    job: str
    #: Of a checkpoint; None means what the job has published.
    step: int | None = None

    @classmethod
    def of_job(cls, job_id: str, *, base_model: str, adapter: str, step: int | None = None) -> Self:
        """The name of what this job makes."""
        return cls(base_model, adapter, job_id[-_OF_JOB:], step)

    def __str__(self) -> str:
        base = self.base_model.rpartition("/")[2]
        checkpoint = "" if self.step is None else f":ckpt-step-{self.step}"
        return f"ft:{base}:{ORGANISATION}:{self.adapter}:{self.job}{checkpoint}"


def parse_fine_tuned_name(model: str) -> FineTunedName | None:
    """None where it is no such name. Whether there is such a job is found out by looking it up."""
    match = _FINE_TUNED.fullmatch(model)
    if match is None:
        return None
    step = match["step"]
    return FineTunedName(match["base"], match["adapter"], match["job"], int(step) if step else None)


def is_checkpoint(model: str) -> bool:
    """Whether it is how a checkpoint is named."""
    name = parse_fine_tuned_name(model)
    return name is not None and name.step is not None


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed `model`: the adapter and, where given, what stands behind the @."""

    adapter: str
    selector: str | None = None

    @property
    def number(self) -> int | None:
        """The version number, if the selector is one; no adapter has a thousand million versions."""
        selector = self.selector
        return int(selector) if selector and re.fullmatch("[0-9]{1,9}", selector) else None


def parse_model_name(model: str) -> ModelName:
    """Split `name@selector`. Never fails: an unknown name is found out by looking it up."""
    adapter, _, selector = model.partition("@")
    return ModelName(adapter, selector or None)


def check_adapter_name(name: str, *, base_models: list[str]) -> str:
    """Return `name` if an adapter may be called that, else raise InvalidValue saying why not."""
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"'{name}' cannot be an adapter name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit.",
            param="name",
        )
    if name in RESERVED or name in base_models:
        raise InvalidValue(f"The name '{name}' is reserved. Choose another one.", param="name")
    return name


def check_alias(alias: str, *, weight: float = 0.0) -> str:
    """Return `alias` if a version may be called that, with this share of the requests, else raise InvalidValue."""
    if not _NAME.fullmatch(alias) or alias.isdigit():
        raise InvalidValue(
            f"'{alias}' cannot be an alias: use 1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or "
            "digit, and not digits alone, which are versions.",
            param="alias",
        )
    if weight and alias not in {CANARY, SHADOW}:
        raise InvalidValue(
            f"Only '{CANARY}' and '{SHADOW}' take a share of the requests. '{alias}' answers to its own name; "
            "leave 'weight' out.",
            param="weight",
        )
    return alias


def new_id(prefix: str) -> str:
    """A fresh id with 24 random base-62 characters (142 bits), such as `ftjob-8fK…`."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(24))
