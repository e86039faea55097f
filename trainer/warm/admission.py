"""From an order to a job that can train: data read and tokenised, adapter made, checkpoint found."""

import dataclasses
from collections.abc import Generator
from functools import partial

from adapters.spec import TrainingSpec
from trainer.messages import Admit, Finished, Started
from trainer.warm import checkpoint, data
from trainer.warm.export import read_into
from trainer.warm.finish import adapter_dir, finished_before
from trainer.warm.job import Identity, Job
from trainer.warm.model import BaseModel
from trainer.warm.objective import objective_of
from trainer.warm.render import Renderer


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """A job that is ready for its first step, or its next."""

    job: Job
    started: Started


#: Yields often, so that neither orders nor other jobs wait for a large file to be tokenised.
Admission = Generator[None, None, Admitted | Finished]


def admit(order: Admit, base: BaseModel, renderer: Renderer) -> Admission:
    """Prepare the job.

    Raises:
        InvalidDataset: the data cannot be trained on.
        NotServable: a target module does not exist.
        OSError: a file cannot be read.
    """
    manifest = finished_before(order.work_dir, order.job_id)
    if manifest is not None:
        return Finished(
            job_id=order.job_id,
            attempt=order.attempt,
            adapter_dir=adapter_dir(order.work_dir),
            manifest=manifest,
        )
    spec = _within_reach(order.spec, base)
    adapter = base.new_adapter(spec.lora, spec.seed)
    parent = None
    if order.parent is not None:
        parent = base.new_adapter(spec.lora, spec.seed)
        read_into(parent, order.parent)
        adapter.load(parent.weights_P)
    objective = objective_of(spec.method, parent)
    samples_of = partial(objective.samples, renderer)
    dataset = yield from data.prepare(samples_of, order.data, order.validation, spec)
    identity = Identity(
        job_id=order.job_id,
        attempt=order.attempt,
        work_dir=order.work_dir,
        dataset_digest=order.dataset_digest,
    )
    job = Job(identity, spec, dataset, adapter, objective)
    resumed_from = checkpoint.resume(job)
    return Admitted(job, _started(job, resumed_from, base))


def _within_reach(spec: TrainingSpec, base: BaseModel) -> TrainingSpec:
    """Rows longer than the model's own context cannot be served, so they are too long whatever the job allows."""
    longest = min(spec.max_seq_length, base.card.max_seq_length)
    return dataclasses.replace(spec, max_seq_length=longest)


def _started(job: Job, resumed_from: int, base: BaseModel) -> Started:
    dataset = job.dataset
    return Started(
        job_id=job.identity.job_id,
        attempt=job.identity.attempt,
        total_steps=job.total_steps,
        train_rows=len(dataset.train),
        valid_rows=len(dataset.valid),
        dropped_rows=dataset.too_long,
        tokens_per_epoch=dataset.tokens,
        trained_tokens_per_epoch=dataset.targets,
        resumed_from_step=resumed_from,
        warnings=dataset.warnings(),
        dtype=str(base.dtype).removeprefix("torch."),
    )
