from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.ledger import Ledger, open_ledger
from adapters.settings import LedgerSettings
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import make_worker
from trainer import burial, triage, worker as worker_module
from trainer.worker import Worker


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(LedgerSettings(home=tmp_path))
    yield ledger
    ledger.close()


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does every duty in every turn."""
    for duty in ("_RECORD_S", "_LOOK_S"):
        monkeypatch.setattr(worker_module, duty, 0.0)
    monkeypatch.setattr(burial, "_MAX_PAUSE_S", 0.0)
    monkeypatch.setattr(triage, "BEHIND_S", 0.0)  # told of new jobs or not


@pytest.fixture
def worker(ledger: Ledger, process: FakeProcess, tmp_path: Path, prompt: None) -> Worker:
    return make_worker(ledger, process, tmp_path)
