"""What a version declares of itself. Written beside the weights as `graft.json`, and kept in the ledger.

The version's number is not in it: the directory is addressed by its digest before the number is given out.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

MANIFEST_FILE = "graft.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelCard:
    """What is known of a base model once it lies on disk, ready to train on and to serve.

    Written by the trainer as `graft-base.json` when it has prepared the model; its presence means "ready".
    """

    id: str
    digest: str
    chat_template_digest: str
    tokenizer_digest: str
    architecture: str
    max_seq_length: int
    #: Names of the linear layers inside the decoder blocks: what `all-linear` means for this model.
    linear_modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One prompt with its reply, and what training thought of each reply token (natural log)."""

    token_ids: tuple[int, ...]
    #: Index of the first reply token in `token_ids`.
    reply_start: int
    adapter_logprobs: tuple[float, ...]
    base_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How training ended."""

    steps: int
    best_step: int
    epochs: float
    trained_tokens: int
    train_loss: float
    #: None where the data was too small to hold any of it out.
    valid_loss: float | None
    #: The base model's own, always as it is served: `published_valid_loss` is what compares with it.
    base_valid_loss: float | None
    stopped_early: bool
    seconds: float
    #: Optimizer steps that were left out because their gradients were not finite.
    skipped_steps: int = 0
    #: In what the base model's weights were computed with.
    dtype: str = "float32"
    #: How the base model's weights were held while training, such as `nf4`; None where they were held as they are.
    quantization: str | None = None
    #: Held-out loss on the base model as it is served, for an adapter that was trained on a quantised one.
    served_valid_loss: float | None = None
    #: The share of target tokens that the model holds likeliest, as `train_loss` and as `published_valid_loss`.
    train_accuracy: float | None = None
    valid_accuracy: float | None = None
    #: DPO: the share of held-out pairs whose preferred reply gained more on the reference than the other one.
    reward_accuracy: float | None = None

    @property
    def published_valid_loss(self) -> float | None:
        """Held-out loss of what users get: on the base model as it is served."""
        return self.valid_loss if self.served_valid_loss is None else self.served_valid_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Where a version comes from that no job here has made."""

    #: Makes the directory's digest its own, also where the same files are brought twice.
    id: str
    #: Of the configuration and the weights as they came.
    digest: str
    #: What the adapter calls its base model.
    base_model: str | None
    #: What was odd about it, and no reason to refuse it.
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Lineage, shape and proof of one version."""

    base: BaseModelCard
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    #: None, like the job and the result, for an adapter that was brought here.
    dataset_digest: str | None
    job_id: str | None
    #: The version whose weights training started from, `name@N`; None for one that started from the base model.
    parent: str | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    #: Whether B A is scaled by alpha / sqrt(rank) instead of alpha / rank.
    rslora: bool = False
    result: TrainingResult | None
    #: None for what was trained here.
    imported: Import | None = None
    #: Whether training can go on from it: all layers of a name are adapted, and alike.
    uniform: bool = True
    #: What requests to it are given where they leave something open.
    default_sampling: dict[str, Any] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    schema_version: int = 1

    @property
    def trained(self) -> TrainingResult:
        """How training ended, of what a job has made."""
        assert self.result is not None, "nothing was trained here"
        return self.result


_manifest = TypeAdapter(Manifest)
_card = TypeAdapter(BaseModelCard)


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as indented JSON."""
    return _manifest.dump_json(manifest, indent=2).decode()


def load_manifest(text: str) -> Manifest:
    """The inverse of `dump_manifest`; raises pydantic's ValidationError."""
    return _manifest.validate_json(text)


BASE_CARD_FILE = "graft-base.json"


def read_base_card(directory: Path) -> BaseModelCard | None:
    """The card of a prepared base model, or None while it is not ready."""
    try:
        return _card.validate_json((directory / BASE_CARD_FILE).read_bytes())
    except FileNotFoundError:
        return None


def dump_base_card(card: BaseModelCard) -> str:
    """The card as indented JSON."""
    return _card.dump_json(card, indent=2).decode()
