"""Training as a user meets it: eight requests until all eight adapters answer, against eight runs of a command."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.demo import demo_model
from bench.jobs import (
    COMMANDS,
    JOBS,
    SINGLY,
    STEPS,
    TOGETHER,
    Done,
    Submission,
    Turn,
    check_same_jobs,
    rows_of,
    submission,
)
from bench.measure import Settings, take_turns
from bench.rivals.client import rival_python
from bench.rivals.command import run_command
from bench.stack import Answered, Client, graft_up
from bench.table import Table

#: In later rounds; the first runs all of them. They are alike, and each takes half a minute.
LATER_RUNS = 2
#: Jobs one after the other, for the time that is not training.
SINGLES = 3


def run(settings: Settings) -> Table:
    """The stack stays up; the peer's runs come between."""
    rival_python(settings, "llamafactory")
    with graft_up(settings) as client:
        bench = _Bench(settings, client)
        # Whatever is done for the first time only.
        client.train(submission("bench-first", -1))
        turns = take_turns(
            settings.rounds,
            {TOGETHER: bench.together, SINGLY: bench.singly, COMMANDS: bench.commands},
        )
    for turn in turns:
        check_same_jobs(turn[TOGETHER].jobs, turn[COMMANDS].jobs)
    return Table(
        name="train_e2e",
        what=(
            f"seconds for {JOBS} jobs of {STEPS} steps of one short conversation each, demo model, rank 16, all layers. "
            "Ours: graft up with its defaults, warm; all POST /finetune at once, until the last of the new models has "
            "answered with a token. Peer: LLaMA-Factory's command with its defaults, files in the page cache, one run "
            f"after the other, without serving anything; {settings.threads} threads. Same rows, steps, batch and peak rate; "
            "the peer trains one line break more in each row; initial weights, order of rows and warm-up are each one's own. 'less training': "
            "from POST to the first token, or from exec to exit, minus the seconds in optimizer steps, of single jobs "
            "one after the other; median of a round"
        ),
        rows=rows_of(turns),
    )


class _Bench:
    """The three turns of a round."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._model = demo_model(settings)
        self._names = itertools.count()
        self._runs = itertools.chain([JOBS], itertools.repeat(LATER_RUNS))

    def together(self) -> Turn:
        """All jobs at once."""
        jobs = [self._submission(seed) for seed in range(JOBS)]
        began = time.perf_counter()
        with ThreadPoolExecutor(JOBS) as pool:
            answered = list(pool.map(self._client.train, jobs))
        return self._turn(began, answered)

    def singly(self) -> Turn:
        """One after the other."""
        began = time.perf_counter()
        answered = [self._client.train(self._submission(seed)) for seed in range(SINGLES)]
        return self._turn(began, answered)

    def _turn(self, began: float, answered: Sequence[Answered]) -> Turn:
        took = time.perf_counter() - began
        return Turn(took, [self._client.look_at(one) for one in answered])

    def commands(self) -> Turn:
        """The peer's runs, scaled to all jobs."""
        done = [self._command(seed) for seed in range(next(self._runs))]
        return Turn(JOBS * statistics.mean(one.seconds for one in done), done)

    def _command(self, seed: int) -> Done:
        with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
            return run_command(self._settings, self._model, self._submission(seed), Path(scratch))

    def _submission(self, seed: int) -> Submission:
        """The rows of that seed, under a name that nobody has used."""
        return submission(f"bench-{next(self._names)}", seed)
