"""The `trainer` section of the configuration. Docs: docs/configuration.md."""

from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from adapters.settings import Section


class TrainerSettings(Section):
    """How jobs are claimed and trained on this machine."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_TRAINER_", extra="forbid", frozen=True)
    section: ClassVar[str] = "trainer"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: In what the base model computes; auto: float32 on a CPU, on a GPU the first of bfloat16, float16 and float32 that
    #: it is good at.
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    #: Devices that one training process spans: each holds a part of the base model, all train every job.
    ranks: int = Field(1, ge=1)
    #: CPU threads of one training process; 0 means all cores while nobody else wants them, and half of them otherwise.
    threads: int = Field(0, ge=0)
    #: Upper bound on the tokens of one micro-batch; 0 means 1024 on a CPU and 32768 on a GPU.
    token_budget: int = Field(0, ge=0)
    #: Most seconds between two checkpoints of a running job.
    checkpoint_seconds: float = Field(15.0, gt=0)
    #: A worker that has not renewed its claim for this long has lost it.
    lease_seconds: float = Field(30.0, gt=1)
    heartbeat_seconds: float = Field(5.0, gt=0)
    poll_seconds: float = Field(0.25, gt=0)
    #: How often in a row a process may die with a job, without a checkpoint in between, before the job fails.
    max_losses: int = Field(4, ge=1)
    #: How long a deleted version's files are kept, since an engine may still read them.
    purge_after_seconds: float = Field(3600.0, ge=0)
    #: Where Prometheus finds the worker's metrics; port 0 means nowhere.
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(0, ge=0, le=65535)
