"""From an order to the first optimizer step: what it saves that the trainer is already there."""

import itertools
import json
import math
import tempfile
import time
from pathlib import Path

from adapters.settings import LedgerSettings
from adapters.spec import TrainingSpec
from bench.demo import MODELS, demo_model
from bench.measure import Settings, interleave
from bench.processes import configure
from bench.proof import Outcome, check_same_work
from bench.table import Row, Table
from bench.warm_client import WarmClient, timed_admission, warm_process
from trainer.messages import Admit, Stepped

#: A cold start takes ten seconds or more, and the ratio is so far from 1 that two of them say it.
MOST_ROUNDS = 2
#: So many that the job never ends while it is looked at.
EPOCHS = 10_000

Timed = tuple[float, Stepped]


def run(settings: Settings) -> Table:
    """The same job on both sides, admitted beside another that is training, or to a process started for it."""
    demo_model(settings)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as directory:
        bench = _Bench(settings, Path(directory))
        with warm_process(bench.config, bench.log) as client:
            client.wait_until_ready()
            pairs = interleave(
                min(settings.rounds, MOST_ROUNDS), lambda: bench.warm(client), bench.cold, warm=0
            )
    for mine, other in pairs:
        check_same_work(_outcome(mine), _outcome(other))
    return Table(
        name="admit",
        what=(
            "seconds from Admit to the first Stepped of a job of one short row. Ours: the second job of a running warm "
            "process, beside a first that is training. Peer: a `python -m trainer.warm` started for this job, from "
            "exec, with all files in the page cache. Demo model, 1 thread; the losses of both steps agree"
        ),
        rows=[
            Row(
                name="second job in a warm process",
                unit="s",
                better="lower",
                ours=[mine[0] for mine, _ in pairs],
                peer=[other[0] for _, other in pairs],
            )
        ],
    )


class _Bench:
    """The files of this benchmark, and its two sides."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        ledger = LedgerSettings(home=settings.home, base_models=MODELS, database_url="")
        self.config = configure(ledger, directory)
        self.log = directory / "warm.log"
        self._directory = directory
        self._data = directory / "data.jsonl"
        self._data.write_text(json.dumps({"messages": MESSAGES}) + "\n")
        self._numbers = itertools.count()

    def warm(self, client: WarmClient) -> Timed:
        """The neighbour is dropped afterwards, so that it takes no time from the peer."""
        neighbour, second = self._order(), self._order()
        client.admit(neighbour)
        timed = timed_admission(client, second, time.perf_counter())
        client.drop(neighbour.job_id)
        client.drop(second.job_id)
        return timed

    def cold(self) -> Timed:
        """The order lies in the socket before the process can read it."""
        began = time.perf_counter()
        with warm_process(self.config, self._directory / "cold.log") as client:
            return timed_admission(client, self._order(), began)

    def _order(self) -> Admit:
        job_id = f"ftjob-{next(self._numbers)}"
        return Admit(
            job_id=job_id,
            attempt=1,
            spec=TrainingSpec(n_epochs=EPOCHS, batch_size=1),
            data=self._data,
            validation=None,
            work_dir=self._directory / job_id,
            dataset_digest="-",
        )


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]


def _outcome(timed: Timed) -> Outcome:
    seconds, step = timed
    return Outcome(seconds, (step.progress.train_loss or math.nan,), (step.grad_norm,))
