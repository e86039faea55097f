"""What a job computes: everything that decides it, and nothing else. Stored with the job, never changed."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Gate: TypeAlias = Literal["auto", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """The shape of an adapter."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    #: Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski, arXiv:2312.03732).
    rslora: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """AdamW with a cosine schedule. Defaults and their reasons: docs/training.md."""

    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup_ratio: float = 0.05
    #: LoRA+: how much higher the learning rate of B is than that of A (Hayou et al., arXiv:2402.12354).
    lora_plus_ratio: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """Cross entropy of the trained tokens: of replies, or of plain text."""

    kind: Literal["supervised"] = "supervised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dpo:
    """Direct preference optimisation (Rafailov et al., arXiv:2305.18290) over rows that compare two replies.

    The reference is the same base model with the adapter off, or with the job's parent on.
    """

    kind: Literal["dpo"] = "dpo"
    beta: float = 0.1


Method: TypeAlias = Supervised | Dpo


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """Stop when held-out loss has not fallen by `min_delta` for `patience` evaluations."""

    enabled: bool = True
    patience: int = 3
    min_delta: float = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """Everything that decides what a job computes. Stored with the job; never changed."""

    lora: LoraSpec = field(default_factory=LoraSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    method: Method = field(default_factory=Supervised)
    #: The version whose weights the job starts from, `name@N`; None starts from the base model.
    parent: str | None = None
    n_epochs: int = 3
    batch_size: int = 16
    max_seq_length: int = 2048
    validation_split: float = 0.05
    seed: int = 42
    gate: Gate = "auto"
    #: What requests to the version are given where they leave something open; for its manifest.
    sampling: dict[str, Any] = field(default_factory=dict)
