"""The `trainer` section of the configuration. Docs: docs/configuration.md."""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from adapters.errors import InvalidValue
from adapters.settings import Section

_DEVICE = re.compile(r"cpu|cuda:\d+")


class RaySettings(BaseModel):
    """Where Ray places trainers, and how many: `trainer.ray`, read by `python -m trainer.ray` only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Of a cluster that runs already, as `ray.init` takes it; empty means one of our own, on this machine.
    address: str = ""
    #: Trainers of one namespace are one crew. Empty: named after the database, so that a ledger has one on a cluster.
    namespace: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9_-]*$")
    #: Most trainers; None means as many as the cluster has devices: its GPUs, or its nodes where there are none.
    max_trainers: PositiveInt | None = None
    #: Fewest; between the two, jobs decide. None means always as many as there may be.
    min_trainers: int | None = Field(None, ge=0)
    #: Jobs, waiting or running, of which each such number wants a trainer.
    jobs_per_trainer: int = Field(8, ge=1)
    #: Fewer must have been enough for so long before one is let go.
    idle_seconds: float = Field(600.0, ge=0)
    #: What one trainer asks of its node. GPUs: None means `trainer.ranks` of them if the cluster has some, else none.
    gpus_per_trainer: int | None = Field(None, ge=0)
    cpus_per_trainer: float = Field(1.0, ge=0)
    #: How long trainers may take to write checkpoints when they are let go; `graft up` waits 20 s in all.
    drain_seconds: float = Field(18.0, ge=0)
    #: A trainer to which nobody has spoken for so long lets itself go: who placed it will not come back.
    forsaken_seconds: float = Field(300.0, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_trainers is not None and (self.min_trainers or 0) > self.max_trainers:
            raise ValueError("min_trainers is larger than max_trainers")
        return self


class TrainerSettings(Section):
    """How jobs are claimed and trained on this machine."""

    model_config = SettingsConfigDict(
        env_prefix="GRAFT_TRAINER_", env_nested_delimiter="__", extra="forbid", frozen=True
    )
    section: ClassVar[str] = "trainer"

    #: One training process of each base model for each of them. `auto`: every GPU that is visible, else the CPU.
    devices: Literal["auto"] | tuple[str, ...] = "auto"
    #: Most jobs that one training process trains at a time.
    max_jobs: int = Field(32, ge=1)
    #: In what the base model computes; auto: float32 on a CPU, on a GPU the first of bfloat16, float16 and float32 that
    #: it is good at.
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    #: How training holds the base model's linear layers; nf4 is QLoRA. What is served is never quantised by this.
    quantization: Literal["none", "nf4"] = "none"
    #: How many of these one process spans: each holds a part of the base model, all train every job.
    ranks: int = Field(1, ge=1)
    #: CPU threads of one training process; 0 means all cores while nobody else wants them, and half of them otherwise.
    threads: int = Field(0, ge=0)
    #: Upper bound on the tokens of one micro-batch; 0 means 1024 on a CPU and 32768 on a GPU.
    token_budget: int = Field(0, ge=0)
    #: Seconds between two checkpoints of a running job; more, up to 300, where writing those of all jobs would take
    #: more than 2 % of the time.
    checkpoint_seconds: float = Field(15.0, gt=0)
    #: At least so many seconds lie between two checkpoints of a job that can be asked, except for its last one.
    checkpoint_export_seconds: float = Field(5.0, ge=0)
    #: A worker that has not renewed its claim for this long has lost it.
    lease_seconds: float = Field(30.0, gt=1)
    heartbeat_seconds: float = Field(5.0, gt=0)
    #: How often a worker that could take a job looks for one; less often where it is told of new ones.
    poll_seconds: float = Field(0.05, gt=0)
    #: How often in a row a job may be lost, without getting further, before it fails. After the second time it is alone
    #: in its process, so that no job fails for its company.
    max_losses: int = Field(4, ge=3)
    #: How long a job waits after it was lost to a full disk or the like: the first time in a row, the second, and any
    #: further. The same when its training process died, but for the first time: then it resumes at once.
    retry_seconds: tuple[NonNegativeFloat, ...] = Field((10.0, 60.0, 300.0), min_length=1)
    #: A job that has been in training for longer, all attempts together, fails with `timeout`.
    max_runtime_seconds: float = Field(24 * 3600.0, gt=0)
    #: A job of which the training process has said nothing for so long goes back to the queue; where that is so of all,
    #: the process is killed.
    stall_seconds: float = Field(900.0, gt=0)
    #: How long a deleted version's files are kept, since an engine may still read them.
    purge_after_seconds: float = Field(3600.0, ge=0)
    #: How long the log says of a webhook call how it went: thirty days.
    keep_deliveries_seconds: float = Field(30 * 86400.0, ge=0)
    #: Where Prometheus finds the worker's metrics; port 0 means nowhere.
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(0, ge=0, le=65535)
    #: Where Ray places trainers.
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _whole_when_quantised(self) -> Self:
        if self.quantization != "none" and self.ranks > 1:
            raise ValueError(
                "quantization and several ranks do not go together: set one of them back"
            )
        return self

    @field_validator("devices")
    @classmethod
    def _usable(cls, devices: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if devices == "auto":
            return devices
        if not devices or len(set(devices)) != len(devices):
            raise ValueError("name at least one device, and each once")
        for device in devices:
            if not _DEVICE.fullmatch(device):
                raise ValueError(f"'{device}' is not a device: say cpu, cuda:0, cuda:1 …")
        return devices

    def retry_after(self, losses: int) -> float:
        """How long a job waits that is lost, and was that often in a row before."""
        return self.retry_seconds[min(losses, len(self.retry_seconds) - 1)]

    @property
    def device_names(self) -> tuple[str, ...]:
        """One for each training process of a base model: a device by torch's name, or `ranks` of them, with commas.

        Raises:
            InvalidValue: there are fewer than one process wants, or of two kinds.
        """
        devices = self.devices if isinstance(self.devices, tuple) else _every_gpu() or ("cpu",)
        if devices == ("cpu",):
            devices *= self.ranks
        kinds = {device.partition(":")[0] for device in devices}
        if len(devices) < self.ranks or (self.ranks > 1 and len(kinds) > 1):
            known = ", ".join(devices)
            raise InvalidValue(
                f"trainer.ranks is {self.ranks}: too few devices, or unlike ones: {known}."
            )
        starts = range(0, len(devices) - self.ranks + 1, self.ranks)
        return tuple(",".join(devices[at : at + self.ranks]) for at in starts)


def prepare_for_ray(token_file: Path | None) -> None:
    """What Ray reads of the environment, which it does when it is loaded.

    A token file is for a cluster of this machine's own. Only who can read it may use the cluster: anybody else could
    have it run anything. And it stays on the loopback interface, where Ray would choose one that others reach too,
    whatever address it is told; what has it stay there is a switch that is meant for other systems.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if token_file is not None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _every_gpu() -> tuple[str, ...]:
    return tuple(f"cuda:{number}" for number in range(visible_gpus()))


def visible_gpus(dev: Path = Path("/dev")) -> int:
    """How many GPUs a training process will see, counted without loading torch."""
    there = len(list(dev.glob("nvidia[0-9]*"))) if _torch_knows_gpus() else 0
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return there
    # As CUDA reads it: indices or UUIDs, up to the first that names nothing.
    names = (name.strip() for name in shown.split(","))
    seen = takewhile(lambda name: name not in {"", "-1"} and not _beyond(name, there), names)
    return min(there, len(list(seen)))


def _beyond(name: str, there: int) -> bool:
    return name.isdecimal() and int(name) >= there


def _torch_knows_gpus() -> bool:
    try:
        return "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False
