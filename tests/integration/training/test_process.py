"""The protocol, over a real socket pair with a real process."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.training.tiny import make_spec
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
    decode_report,
    encode_order,
)

PATIENCE = 60.0


class Warm:
    """The worker's side of a warm process."""

    def __init__(self, home: Path, device: str = "cpu") -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        self.process = subprocess.Popen(
            [
                "env",
                f"GRAFT_HOME={home}",
                f"GRAFT_CONFIG={home / 'graft.yaml'}",
                "OMP_NUM_THREADS=1",
                *(sys.executable, "-m", "trainer.warm", "tiny", "--fd", str(theirs.fileno())),
                *("--device", device),
            ],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.connection = ours
        self._lines = ours.makefile("rb")

    def order(self, order) -> None:
        self.connection.sendall(encode_order(order))

    def next(self):
        line = self._lines.readline()
        assert line, "the warm process is gone"
        return decode_report(line)

    def until(self, kind: type, job_id: str | None = None) -> list:
        """All reports up to and with the first of this kind."""
        reports = [self.next()]
        while not isinstance(reports[-1], kind) or job_id not in {None, reports[-1].job_id}:
            reports.append(self.next())
        return reports

    def close(self) -> None:
        self._lines.close()
        self.connection.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def home(model_dir, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    config = {
        "ledger": {"home": str(home), "base_models": [{"id": "tiny", "source": str(model_dir)}]},
        "trainer": {"threads": 1, "checkpoint_seconds": 0.1},
    }
    (home / "graft.yaml").write_text(json.dumps(config))
    return home


@pytest.fixture
def start(home):
    """Starts warm processes and ends them."""
    started: list[Warm] = []

    def start() -> Warm:
        started.append(Warm(home))
        return started[-1]

    yield start
    for warm in started:
        warm.close()


@pytest.fixture(scope="module")
def warm(home):
    """One that most tests share; each leaves it idle. At the end its worker dies, and it must not outlive that."""
    warm = Warm(home)
    assert isinstance(warm.next(), Ready)
    yield warm
    warm.connection.shutdown(socket.SHUT_RDWR)
    status = warm.process.wait(5)
    warm.close()
    assert status == 1


def write_data(path: Path, rows: int) -> Path:
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"what is number {at}?"},
                    {"role": "assistant", "content": f"it is {at * 7}, of course"},
                ]
            }
        )
        for at in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def admit(
    tmp_path: Path, job_id: str = "ftjob-1", *, rows: int = 60, attempt: int = 1, **changes
) -> Admit:
    return Admit(
        job_id=job_id,
        attempt=attempt,
        spec=make_spec(**changes),
        data=write_data(tmp_path / f"{job_id}.jsonl", rows),
        validation=None,
        work_dir=tmp_path / job_id,
        dataset_digest="data",
    )


def test_a_job_reports_its_way_to_the_finish(warm, tmp_path):
    warm.order(admit(tmp_path))
    reports = warm.until(Finished)
    started = reports[0]
    assert isinstance(started, Started)
    assert (started.train_rows, started.valid_rows, started.total_steps) == (54, 6, 28)
    assert started.resumed_from_step == 0
    kinds = {type(report) for report in reports}
    assert kinds - {Exported} == {Started, Stepped, Evaluated, Checkpointed, Finished}
    result = reports[-1].manifest.result
    assert result.valid_loss < result.base_valid_loss
    assert reports[-1].manifest.probes
    assert (reports[-1].adapter_dir / "adapter_model.safetensors").is_file()

    # A worker that died before it could publish asks again.
    warm.order(admit(tmp_path, attempt=2))
    again = warm.next()
    assert isinstance(again, Finished)
    assert (again.attempt, again.manifest.result) == (2, result)


def test_a_job_starts_within_a_second_and_is_dropped_within_another(warm, tmp_path):
    asked_at = time.monotonic()
    warm.order(admit(tmp_path, n_epochs=10_000, attempt=3))
    assert warm.until(Stepped)[-1].attempt == 3
    started_at = time.monotonic()
    warm.order(Drop(job_id="ftjob-1"))
    warm.until(Dropped)
    assert started_at - asked_at < 1
    assert time.monotonic() - started_at < 1


def test_dropping_a_stranger_is_answered_too(warm):
    warm.order(Drop(job_id="nobody"))
    assert warm.next() == Dropped(job_id="nobody")


def test_bad_data_fails_its_job_and_nothing_else(warm, tmp_path):
    warm.order(admit(tmp_path, "neighbour", n_epochs=10_000))
    warm.until(Stepped)
    bad, missing = admit(tmp_path, "bad"), admit(tmp_path, "missing")
    bad.data.write_text('{"messages": 5}\n')
    missing.data.unlink()
    warm.order(bad)
    warm.order(missing)
    reports = warm.until(Failed) + warm.until(Failed)
    failed = {(r.job_id, r.code, r.retryable) for r in reports if isinstance(r, Failed)}
    assert failed == {("bad", "invalid_training_file", False), ("missing", "storage_error", True)}
    warm.until(Stepped, "neighbour")
    warm.order(Drop(job_id="neighbour"))
    warm.until(Dropped)


def test_two_jobs_train_side_by_side(warm, tmp_path):
    warm.order(admit(tmp_path, "one", n_epochs=4))
    warm.order(admit(tmp_path, "two", rows=20))
    reports = warm.until(Finished) + warm.until(Finished)
    assert {r.job_id for r in reports if isinstance(r, Finished)} == {"one", "two"}
    first_end = next(at for at, r in enumerate(reports) if isinstance(r, Finished))
    assert {r.job_id for r in reports[:first_end] if isinstance(r, Stepped)} == {"one", "two"}


def test_a_killed_process_is_continued_from_its_checkpoint(start, tmp_path):
    first, second = start(), start()  # the second loads meanwhile
    first.next()
    order = admit(tmp_path, n_epochs=10_000)
    first.order(order)
    kept = first.until(Checkpointed)[-1].step
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(PATIENCE)

    second.next()
    second.order(order)
    started = second.next()
    assert isinstance(started, Started)
    assert started.resumed_from_step >= kept
    assert second.until(Stepped)[-1].progress.step > kept

    # Told to stop, it leaves the job where a third attempt can go on.
    second.order(Shutdown())
    assert second.process.wait(PATIENCE) == 0
    newest = max((tmp_path / "ftjob-1" / "checkpoints").glob("step-*"))
    assert int(newest.name.removeprefix("step-")) > started.resumed_from_step
