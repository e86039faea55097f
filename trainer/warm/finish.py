"""The end of a job: its best weights as a PEFT directory, and the manifest that says how they came about.

<work_dir>/adapter/                  plain PEFT
<work_dir>/finished.json             the manifest; written last, so that its presence means "complete"
<work_dir>/exported/step-00000012/   plain PEFT on the way, until the worker has stored it
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from adapters.durable import write_text
from adapters.manifest import Manifest, Probe, TrainingResult, dump_manifest, load_manifest
from trainer.messages import Exported, Finished
from trainer.warm.adapter import suffixes
from trainer.warm.export import export
from trainer.warm.job import Job
from trainer.warm.model import BaseModel
from trainer.warm.probe import Taught, take_probes
from trainer.warm.rows import Row

log = logging.getLogger(__name__)

ADAPTER, FINISHED, EXPORTED = "adapter", "finished.json", "exported"


def adapter_dir(work_dir: Path) -> Path:
    """Where a finished job's adapter lies."""
    return work_dir / ADAPTER


@dataclass(frozen=True, slots=True)
class Proven:
    """What is known of an adapter that was probed, and its files: one that could not be written says so there."""

    probes: tuple[Probe, ...]
    exported: Future[None]


def probe_and_export(base: BaseModel, jobs: Sequence[Job], room: int) -> list[Proven]:
    """Probe each job's best weights, which its adapter has from then on. A thread exports them. Raises OSError."""
    for job in jobs:
        job.take_best()
    taught = [Taught(job.adapter, _rows(job)) for job in jobs]
    with ThreadPoolExecutor(1, "export") as aside:
        exported = [
            aside.submit(_export, base, job, adapter_dir(job.identity.work_dir)) for job in jobs
        ]
        with base.as_served():  # an engine will be held to them
            probes = take_probes(base, taught, room)
    return list(map(Proven, probes, exported))


def finish(base: BaseModel, job: Job, proven: Proven) -> Finished:
    """Write down how a job's files came about; it is over afterwards. Raises OSError, where it leads."""
    proven.exported.result()
    manifest = _manifest(base, job, _result(job, job.step_to_publish, base), proven.probes)
    identity = job.identity
    if base.crew.rank == 0:
        write_text(identity.work_dir / FINISHED, dump_manifest(manifest))
    return Finished(
        job_id=identity.job_id,
        attempt=identity.attempt,
        adapter_dir=adapter_dir(identity.work_dir),
        manifest=manifest,
    )


def export_on_the_way(base: BaseModel, job: Job) -> Callable[[], Exported]:
    """What exports the job's weights as they are now, whatever they are by then; without probes, which cost a pass.

    Raises OSError, where it leads.
    """
    state, weights_P = job.state, job.adapter.weights_P.clone()
    now = replace(
        _result(job, state.step, base),
        valid_loss=state.valid_loss,
        valid_accuracy=state.valid_accuracy,
    )
    exported = Exported(
        job_id=job.identity.job_id,
        attempt=job.identity.attempt,
        adapter_dir=job.identity.work_dir / EXPORTED / f"step-{state.step:08d}",
        manifest=_manifest(base, job, now),
    )

    def write() -> Exported:
        _export(base, job, exported.adapter_dir, weights_P)
        return exported

    return write


def finished_before(work_dir: Path, job_id: str) -> Manifest | None:
    """The manifest, if an earlier attempt got as far as this but its worker did not live to publish it."""
    try:
        manifest = load_manifest((work_dir / FINISHED).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s cannot be read, training continues: %s", work_dir / FINISHED, error)
        return None
    complete = (adapter_dir(work_dir) / "adapter_model.safetensors").is_file()
    return manifest if complete and manifest.job_id == job_id else None


def _export(base: BaseModel, job: Job, directory: Path, weights_P: Tensor | None = None) -> None:
    if base.crew.rank == 0:
        whose = base.card.id
        export(job.adapter, directory, base_id=whose, dtype=base.dtype, weights_P=weights_P)


def _rows(job: Job) -> Iterator[Row]:
    return (row for sample in job.dataset.train for row in sample.rows)


def _manifest(
    base: BaseModel, job: Job, result: TrainingResult, probes: tuple[Probe, ...] = ()
) -> Manifest:
    return Manifest(
        base=base.card,
        rank=job.spec.lora.rank,
        alpha=job.spec.lora.alpha,
        target_modules=suffixes(job.adapter.shapes),
        method=job.spec.method.kind,
        rslora=job.spec.lora.rslora,
        parent=job.spec.parent,
        dataset_digest=job.identity.dataset_digest,
        job_id=job.identity.job_id,
        result=result,
        default_sampling=job.spec.sampling,
        probes=probes,
    )


def _result(job: Job, best_step: int, base: BaseModel) -> TrainingResult:
    state = job.state
    return TrainingResult(
        steps=state.step,
        best_step=best_step,
        epochs=state.step / job.steps_per_epoch,
        trained_tokens=state.trained_tokens,
        train_loss=job.train_loss,
        train_accuracy=job.train_accuracy,
        valid_loss=state.best_valid_loss,
        valid_accuracy=state.best_valid_accuracy,
        base_valid_loss=state.base_valid_loss,
        stopped_early=state.stopped_early,
        seconds=state.seconds,
        skipped_steps=state.skipped,
        dtype=str(base.dtype).removeprefix("torch."),
        quantization=base.quantization,
        served_valid_loss=state.served_valid_loss,
        reward_accuracy=state.reward_accuracy,
    )
