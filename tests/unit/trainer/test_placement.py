"""Jobs of one base model are spread over the workers that have a device for it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.ledger import Ledger
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import make_worker, submit
from trainer.placement import Placement
from trainer.worker import Worker


def test_the_worker_with_the_fewest_jobs_is_the_one_to_take_the_next() -> None:
    placement = Placement()
    placement.open("a", 2)
    assert placement.least("a"), "alone"
    placement.open("b", 1)
    assert (placement.least("a"), placement.least("b")) == (False, True)
    placement.open("b", 2)
    assert (placement.least("a"), placement.least("b")) == (True, True)


def test_nobody_waits_for_a_worker_that_takes_nothing() -> None:
    placement = Placement()
    placement.open("a", 9)
    placement.open("b", 0)
    placement.close("b")
    assert placement.least("a")
    assert not placement.least("b")


def test_threads_may_use_it_at_the_same_time() -> None:
    placement = Placement()

    def work(name: str) -> None:
        for load in range(300):
            placement.open(name, load)
            placement.least(name)
            placement.close(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, map(str, range(8))))
    placement.open("last", 0)
    assert placement.least("last")


@pytest.fixture
def siblings(ledger: Ledger, tmp_path: Path, prompt: None) -> list[tuple[Worker, FakeProcess]]:
    placement = Placement()
    processes = [FakeProcess(steps=200, checkpoint_every=100) for _ in range(3)]
    return [
        (make_worker(ledger, process, tmp_path, worker_id=name, placement=placement), process)
        for name, process in zip(("cuda:0", "cuda:1", "cuda:2"), processes, strict=True)
    ]


def test_jobs_spread_evenly_over_the_devices(
    siblings: list[tuple[Worker, FakeProcess]], ledger: Ledger, tmp_path: Path
) -> None:
    for worker, _ in siblings:
        worker.turn()  # all are ready before the first job comes
        worker.turn()
    ids = {submit(ledger, tmp_path) for _ in range(7)}
    for _ in range(12):
        for worker, _ in siblings:
            worker.turn()
    held = [process.training for _, process in siblings]
    assert sorted(map(len, held)) == [2, 2, 3]
    assert set().union(*held) == ids


def test_a_device_whose_process_is_down_holds_nobody_up(
    siblings: list[tuple[Worker, FakeProcess]], ledger: Ledger, tmp_path: Path
) -> None:
    for worker, _ in siblings:
        worker.turn()
        worker.turn()
    broken, process = siblings[0]
    process.kill()
    broken.turn()
    for _ in range(4):
        submit(ledger, tmp_path)
    for _ in range(6):
        for worker, _ in siblings[1:]:
            worker.turn()
    assert [len(process.training) for _, process in siblings] == [0, 2, 2]
