"""What a worker's metrics say while jobs come, train, are lost and end."""

from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from adapters.ledger import Ledger
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until
from trainer.messages import Failed, Squeezed
from trainer.metrics import Instruments, Metrics
from trainer.storage import size_of
from trainer.worker import Worker


def shown(worker: Worker) -> dict[str, float]:
    """By name and labels, `base_model` and what is 0 left out."""
    return {
        name: value for name, value in _all(worker._metrics.all.registry).items() if value != 0.0
    }


def _all(registry) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = [v for k, v in sample.labels.items() if k not in {"base_model", "le"}]
            if "le" not in sample.labels:
                found[" ".join([sample.name, *filter(None, labels)])] = sample.value
    return found


def test_a_job_is_counted_from_its_first_step_to_its_gate(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    finish(worker, ledger, submit(ledger, tmp_path))
    told = shown(worker)
    for name, value in {
        "graft_job_attempts_total first": 1,
        "graft_job_queue_wait_seconds_count": 1,
        "graft_job_first_step_seconds_count": 1,
        "graft_training_steps_total": 3,
        "graft_training_tokens_total": 90,
        "graft_checkpoint_write_seconds_count": 1,
        "graft_gate_results_total passed": 1,
        "graft_jobs_finished_total succeeded": 1,
        "graft_job_duration_seconds_count succeeded": 1,
    }.items():
        assert told[name] == value, name
    assert "graft_job_losses_total" not in told


def test_the_series_of_a_job_are_there_while_it_runs_and_then_gone(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    name = f"graft_training_progress_ratio {job_id}"
    work_until(worker, lambda: name in shown(worker))
    assert f"graft_training_loss {job_id}" in shown(worker)
    finish(worker, ledger, job_id)
    assert job_id not in " ".join(_all(worker._metrics.all.registry))


def test_a_death_a_loss_and_a_rescue_are_counted_and_no_step_twice_over(
    worker: Worker, process: FakeProcess, ledger: Ledger, tmp_path: Path
) -> None:
    process.die_after = 5
    finish(worker, ledger, submit(ledger, tmp_path))
    told = shown(worker)
    assert told["graft_training_process_deaths_total"] == 1
    assert told["graft_job_losses_total"] == 1
    assert told["graft_job_attempts_total rescued"] == 1
    assert told["graft_job_first_step_seconds_count"] == 1
    assert told["graft_training_steps_total"] >= 3


def test_whose_fault_a_failure_is_shows(
    worker: Worker, process: FakeProcess, ledger: Ledger, tmp_path: Path
) -> None:
    process.fail_with = Failed(job_id="", attempt=0, code="loss_diverged", message="Too fast.")
    finish(worker, ledger, submit(ledger, tmp_path))
    process.fail_with = Failed(job_id="", attempt=0, code="internal_error", message="Oh.")
    finish(worker, ledger, submit(ledger, tmp_path))
    told = shown(worker)
    assert told["graft_jobs_finished_total failed_user"] == 1
    assert told["graft_jobs_finished_total failed_system"] == 1
    assert told["graft_training_nonfinite_total"] == 1


def test_what_is_written_of_a_job_that_was_cancelled_is_counted_as_refused(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: "graft_training_steps_total" in shown(worker))
    ledger.jobs.cancel(job_id)
    work_until(worker, lambda: "graft_job_fenced_writes_total" in shown(worker))


def test_a_pass_that_did_not_fit_is_counted(worker: Worker, process: FakeProcess) -> None:
    worker.turn()
    process._outbox.append(Squeezed(token_budget=512))
    work_until(worker, lambda: "graft_training_out_of_memory_total" in shown(worker))


def test_workers_share_instruments_and_have_labels_of_their_own(
    ledger: Ledger, tmp_path: Path
) -> None:
    instruments = Instruments()
    for device in ("cuda:0", "cuda:1"):
        Metrics(instruments, base_model="m", device=device).lives(7.0)
    told = generate_latest(instruments.registry).decode()
    assert told.count('graft_worker_heartbeat_timestamp_seconds{base_model="m",device="cuda:') == 2


def test_a_worker_that_lives_says_so(ledger: Ledger, tmp_path: Path, prompt: None) -> None:
    worker = make_worker(ledger, FakeProcess(), tmp_path, heartbeat_seconds=1e-6)
    work_until(worker, lambda: "graft_worker_heartbeat_timestamp_seconds" in shown(worker))


def test_bytes_are_those_of_files_below(tmp_path: Path) -> None:
    assert size_of(tmp_path / "nothing") == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"678")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert size_of(tmp_path) == 8 + len(str(tmp_path / "c"))
