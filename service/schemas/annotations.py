"""What a job carries and does not train on: `metadata` and `integrations`, within OpenAI's bounds."""

from collections.abc import Mapping
from typing import Any, Final

_MOST_KEYS: Final = 16
_LONGEST_KEY: Final = 64
_LONGEST_VALUE: Final = 512
_MOST_INTEGRATIONS: Final = 16
_WANDB: Final = ("project", "entity", "name", "tags")


def check_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """The same metadata. Raises ValueError saying which bound it breaks."""
    if metadata is None:
        return None
    if len(metadata) > _MOST_KEYS:
        raise ValueError(f"at most {_MOST_KEYS} keys, not {len(metadata)}")
    for key, value in metadata.items():
        if len(key) > _LONGEST_KEY:
            raise ValueError(f"a key has at most {_LONGEST_KEY} characters, unlike {key!r:.80}")
        if len(value) > _LONGEST_VALUE:
            raise ValueError(
                f"a value has at most {_LONGEST_VALUE} characters, unlike that of {key!r}"
            )
    return metadata


def check_integrations(integrations: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The same integrations. They are kept and given back; that of Weights & Biases has to have its shape.

    Raises:
        ValueError: one has no type, or not the shape of its type.
    """
    if integrations is None:
        return None
    if len(integrations) > _MOST_INTEGRATIONS:
        raise ValueError(f"at most {_MOST_INTEGRATIONS}, not {len(integrations)}")
    for integration in integrations:
        kind = integration.get("type")
        if not isinstance(kind, str):
            raise ValueError("each needs a 'type', such as \"wandb\"")  # noqa: TRY004  pydantic wants this one
        if kind == "wandb":
            _check_wandb(integration.get("wandb"))
    return integrations


def _check_wandb(wandb: object) -> None:
    if not isinstance(wandb, Mapping) or not _text(wandb.get("project")):
        raise ValueError('one of type "wandb" needs {"wandb": {"project": "..."}}')
    unknown = sorted(set(wandb) - set(_WANDB))
    if unknown:
        raise ValueError(f"wandb has no {unknown[0]!r:.80}; it has {', '.join(_WANDB)}")
    for name in ("entity", "name"):
        if wandb.get(name) is not None and not _text(wandb[name]):
            raise ValueError(f"wandb.{name} must be text")
    tags = wandb.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(_text(tag) for tag in tags)):
        raise ValueError("wandb.tags must be a list of text")


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
