"""R3: real LoRA training of a tiny model, killed at random steps, comes to the same bits as if it had not been."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.nursery import ROOT, Process
from tests.chaos.sizes import Chaos


class Trainees:
    def __init__(self, model: Path) -> None:
        self._mother = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.trainee", str(model)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, folder: Path, seed: int) -> Process:
        folder.mkdir(exist_ok=True)
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        self._mother.stdin.write(f"{folder} {seed}\n")
        self._mother.stdin.flush()
        return Process(int(self._mother.stdout.readline()))

    def close(self) -> None:
        self._mother.kill()
        self._mother.wait()
        for pipe in (self._mother.stdin, self._mother.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def trainees(tmp_path: Path) -> Iterator[Trainees]:
    trainees = Trainees(tmp_path / "model")
    yield trainees
    trainees.close()


def wait(process: Process) -> None:
    deadline = time.monotonic() + 60
    while process.alive:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()


def losses(folder: Path) -> list[tuple[int, str]]:
    """Every step that was ever made, in the order in which they were made."""
    whole = (folder / "losses").read_text().rpartition("\n")[0]
    found = [line.split() for line in whole.splitlines()]
    return [(int(step), loss) for step, loss in found]


def test_training_that_is_killed_comes_to_the_same_bits(
    chaos: Chaos, trainees: Trainees, tmp_path: Path
) -> None:
    dice, kills = chaos.dice("R3"), chaos.of_size(ci=8, release=200)
    made = steps = seed = 0
    with chaos.experiment(
        "R3", "kill -9 of a real LoRA training at random steps, resumed"
    ) as found:
        while made < kills:
            seed += 1
            whole, torn = tmp_path / f"whole-{seed}", tmp_path / f"torn-{seed}"
            wait(trainees.train(whole, seed))
            wanted = dict(losses(whole))
            for _ in range(min(4, kills - made)):
                process = trainees.train(torn, seed)
                time.sleep(dice.uniform(0.02, 0.25))
                made += process.alive
                process.kill()
            wait(trainees.train(torn, seed))
            again = losses(torn)
            assert {step for step, _ in again} == set(wanted)
            assert all(wanted[step] == loss for step, loss in again), "a loss differs in some bit"
            assert weights(torn) == weights(whole), "the adapters differ in some bit"
            steps += len(again)
        found.trials, found.unit = made, "kills"
        found.result = f"{seed} adapters and {steps:,} losses equal in every bit (CPU)"


def weights(folder: Path) -> bytes:
    made = Path((folder / "finished").read_text())
    return (made / "adapter_model.safetensors").read_bytes()
