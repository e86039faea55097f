"""A training process without a model: it obeys orders at once and reports as the warm process does.

Runs in the test's own thread. What it should do wrong, a test says first.
"""

from collections import deque
from collections.abc import Sequence
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
    Failed,
    Finished,
    Ready,
    Shutdown,
    Started,
    Stepped,
)


class FakeProcess:
    """Trains in three steps, one report each time it is asked."""

    def __init__(self) -> None:
        self.starts = 0
        self.admitted: list[Admit] = []
        self.dropped: list[str] = []
        self.stopped = False
        #: Die when the next report would be this many reports away; once.
        self.die_after: int | None = None
        self.fail_with: Failed | None = None
        self.valid_loss: float | None = 1.0
        #: Train on a quantised base, with this loss on the one that is served.
        self.served_valid_loss: float | None = None
        self._alive = False
        self._outbox: deque[AnyReport] = deque()

    def start(self) -> None:
        self.starts += 1
        self._alive = True
        self._outbox = deque([Ready(card=card(BASE))])

    def send(self, order: Admit | Drop | Shutdown) -> None:
        self._check()
        match order:
            case Admit():
                self.admitted.append(order)
                self._outbox.extend(self._train(order))
            case Drop():
                self.dropped.append(order.job_id)
                self._outbox = deque([Dropped(job_id=order.job_id)])
            case Shutdown():
                self._alive = False

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        self._check()
        if self.die_after == 0:
            self.die_after, self._alive = None, False
            raise ProcessDied("killed by signal 9")
        if not self._outbox:
            return []
        if self.die_after is not None:
            self.die_after -= 1
        return [self._outbox.popleft()]

    def stop(self, grace: float) -> None:
        self.stopped = True
        self._alive = False

    def _check(self) -> None:
        if not self._alive:
            raise ProcessDied("killed by signal 9")

    def _train(self, order: Admit) -> list[AnyReport]:
        named = {"job_id": order.job_id, "attempt": order.attempt}
        if self.fail_with is not None:
            return [
                Failed(
                    **named,
                    code=self.fail_with.code,
                    message=self.fail_with.message,
                    retryable=self.fail_with.retryable,
                )
            ]
        steps = [
            Stepped(
                **named,
                progress=Progress(step=n, total_steps=3, percent=n * 33.0, train_loss=1.0 / n),
                learning_rate=1e-4,
                grad_norm=1.0,
            )
            for n in (1, 2, 3)
        ]
        return [
            Started(
                **named,
                total_steps=3,
                train_rows=9,
                valid_rows=1,
                dropped_rows=0,
                tokens_per_epoch=90,
                trained_tokens_per_epoch=30,
                resumed_from_step=0,
                warnings=("one row is odd",),
            ),
            *steps[:2],
            Checkpointed(**named, step=2),
            steps[2],
            Evaluated(**named, step=3, valid_loss=1.0, base_valid_loss=2.0, best=True),
            Finished(
                **named,
                adapter_dir=self._made(order),
                manifest=self._manifest(order),
            ),
        ]

    def _manifest(self, order: Admit) -> Manifest:
        plain = manifest(_as_new(order), self.valid_loss)
        if self.served_valid_loss is None:
            return plain
        served = {"quantization": "nf4", "served_valid_loss": self.served_valid_loss}
        return replace(plain, result=replace(plain.result, **served))

    def _made(self, order: Admit) -> Path:
        directory = order.work_dir / f"adapter-{order.attempt}"
        return adapter_directory(directory, content=order.job_id.encode())


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
