"""A training process without a model: it obeys orders at once and reports as the warm process does.

Runs in the test's own thread. It trains the jobs that it has in turns, one report each time it is asked, and continues
those it has a checkpoint of. What it should do wrong, a test says first.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from adapters.manifest import Manifest
from adapters.records import NewJob, Progress
from tests.support.samples import BASE, adapter_directory, card, manifest, new_job
from trainer.child import AnyReport, ProcessDied
from trainer.messages import (
    Admit,
    Checkpointed,
    Drop,
    Dropped,
    Evaluated,
    Exported,
    Failed,
    Finished,
    Ready,
    Shutdown,
    Started,
    Stepped,
)


class FakeProcess:
    """Trains each job in a few steps."""

    def __init__(
        self,
        *,
        steps: int = 3,
        checkpoint_every: int = 2,
        checkpoints: dict[str, int] | None = None,
    ) -> None:
        self.starts = 0
        self.admitted: list[Admit] = []
        #: Who was in it already, at each admission.
        self.company: list[set[str]] = []
        self.dropped: list[str] = []
        self.stopped = False
        #: Die when the next report would be this many reports away; once.
        self.die_after: int | None = None
        #: At which step a job kills the process, every time.
        self.poison: dict[str, int] = {}
        #: Who was in the process at each of its deaths.
        self.deaths: list[set[str]] = []
        self.fail_with: Failed | None = None
        self.valid_loss: float | None = 1.0
        #: Export the adapter at these steps.
        self.exports: set[int] = set()
        #: Train on a quantised base, with this loss on the one that is served.
        self.served_valid_loss: float | None = None
        self._steps = steps
        self._checkpoint_every = checkpoint_every
        #: By job; given by a test in which they outlive this process's worker.
        self._checkpoints = {} if checkpoints is None else checkpoints
        self._alive = False
        self._outbox: deque[AnyReport] = deque()
        self._training: dict[str, Iterator[AnyReport]] = {}
        #: The latest step of each job that has made one.
        self._latest: dict[str, Stepped] = {}

    @property
    def training(self) -> set[str]:
        """The jobs that are in it."""
        return set(self._training) if self._alive else set()

    def start(self) -> None:
        self.starts += 1
        self._alive = True
        self._training = {}
        self._outbox = deque([Ready(card=card(BASE))])

    def send(self, order: Admit | Drop | Shutdown) -> None:
        self._check()
        match order:
            case Admit():
                self.admitted.append(order)
                self.company.append(self.training)
                self._training[order.job_id] = self._train(order)
            case Drop():
                self.dropped.append(order.job_id)
                training = self._training.pop(order.job_id, None)
                if order.keep and training is not None:
                    self._keep(order.job_id)
                self._outbox.append(Dropped(job_id=order.job_id))
            case Shutdown():
                self._alive = False

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        self._check()
        if self.die_after == 0:
            self.die_after = None
            self.kill()
        self._check()
        report = self._outbox.popleft() if self._outbox else self._turn()
        if report is None:
            return []
        if self.die_after is not None:
            self.die_after -= 1
        return [report]

    def wake(self) -> None:
        """Nobody ever waits here."""

    def stop(self, grace: float) -> None:
        self.stopped = True
        self._alive = False

    def kill(self) -> None:
        """It dies, now."""
        if self._alive:
            self.deaths.append(self.training)
            self._alive = False

    def _keep(self, job_id: str) -> None:
        latest = self._latest.get(job_id)
        if latest is not None:
            step = latest.progress.step
            self._checkpoints[job_id] = step
            kept = Checkpointed(job_id=job_id, attempt=latest.attempt, step=step)
            self._outbox.append(kept)

    def _check(self) -> None:
        if not self._alive:
            raise ProcessDied("killed by signal 9")

    def _turn(self) -> AnyReport | None:
        """The next report of the job whose turn it is."""
        for job_id in list(self._training):
            training = self._training.pop(job_id)
            self._training[job_id] = training  # last in the row now
            report = next(training, None)
            self._check()
            if isinstance(report, Finished | Failed):
                del self._training[job_id]
            if report is not None:
                return report
        return None

    def _train(self, order: Admit) -> Iterator[AnyReport]:
        named = {"job_id": order.job_id, "attempt": order.attempt}
        if self.fail_with is not None:
            yield Failed(
                **named,
                code=self.fail_with.code,
                message=self.fail_with.message,
                retryable=self.fail_with.retryable,
            )
            return
        done = self._checkpoints.get(order.job_id, 0)
        self._latest.pop(order.job_id, None)
        yield Started(
            **named,
            total_steps=self._steps,
            train_rows=9,
            valid_rows=1,
            dropped_rows=0,
            tokens_per_epoch=90,
            trained_tokens_per_epoch=30,
            resumed_from_step=done,
            warnings=("one row is odd",),
        )
        must_prove = order.prove_past is not None
        for step in range(done + 1, self._steps + 1):
            if self.poison.get(order.job_id) == step:
                self.kill()
                return
            self._latest[order.job_id] = Stepped(
                **named,
                progress=_progress(step, self._steps),
                learning_rate=1e-4,
                grad_norm=1.0,
            )
            yield self._latest[order.job_id]
            if step in self.exports:
                yield self._export(order, step)
            proves = must_prove and step > order.prove_past
            if (proves or step % self._checkpoint_every == 0) and step < self._steps:
                must_prove = must_prove and not proves
                self._checkpoints[order.job_id] = step
                yield Checkpointed(**named, step=step)
        yield Evaluated(**named, step=self._steps, valid_loss=1.0, base_valid_loss=2.0, best=True)
        yield Finished(
            **named,
            adapter_dir=self._made(order),
            manifest=self._manifest(order),
        )

    def _export(self, order: Admit, step: int) -> Exported:
        plain = self._manifest(order)
        return Exported(
            job_id=order.job_id,
            attempt=order.attempt,
            adapter_dir=adapter_directory(
                order.work_dir / f"exported-{order.attempt}-{step}",
                content=f"{order.job_id} {step}".encode(),
            ),
            manifest=replace(plain, result=replace(plain.result, steps=step, best_step=step)),
        )

    def _manifest(self, order: Admit) -> Manifest:
        plain = manifest(_as_new(order), self.valid_loss)
        ended = replace(plain.result, steps=self._steps, best_step=self._steps)
        plain = replace(plain, result=ended)
        if self.served_valid_loss is None:
            return plain
        served = {"quantization": "nf4", "served_valid_loss": self.served_valid_loss}
        return replace(plain, result=replace(plain.result, **served))

    def _made(self, order: Admit) -> Path:
        directory = order.work_dir / f"adapter-{order.attempt}"
        return adapter_directory(directory, content=order.job_id.encode())


def _progress(step: int, total: int) -> Progress:
    percent = 100.0 * step / total
    return Progress(
        step=step,
        total_steps=total,
        percent=percent,
        tokens_seen=30 * step,
        train_loss=1.0 / step,
    )


def _as_new(order: Admit) -> NewJob:
    sample = new_job()
    return NewJob(
        id=order.job_id,
        adapter=sample.adapter,
        base_model=BASE,
        training_file="-",
        spec=order.spec,
        dataset=sample.dataset,
    )
