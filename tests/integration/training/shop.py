"""A real worker with a real training process on the tiny model, and a ledger of its own."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from adapters.ledger import open_ledger
from adapters.records import Job, NewJob
from adapters.settings import BaseModelSettings, LedgerSettings
from tests.integration.training.tiny import make_spec
from tests.support.samples import new_job, render
from trainer.child import WarmProcess
from trainer.metrics import Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.worker import Worker

#: Seconds until something that should happen has not.
PATIENCE = 60.0


class Shop:
    """The trainer of one base model, turned by the test's own thread."""

    def __init__(self, home: Path, model_dir: Path, monkeypatch: Any, **settings: Any) -> None:
        config = {
            "ledger": {
                "home": str(home),
                "base_models": [{"id": "tiny", "source": str(model_dir)}],
            },
            "trainer": {"threads": 1, **settings},
        }
        home.mkdir(exist_ok=True)
        _share_compiled(home, model_dir.with_name("compiled"))
        (home / "graft.yaml").write_text(json.dumps(config))
        monkeypatch.setenv("GRAFT_HOME", str(home))
        monkeypatch.setenv("GRAFT_CONFIG", str(home / "graft.yaml"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        self.home = home
        base_model = BaseModelSettings(id="tiny", source=str(model_dir))
        self.ledger = open_ledger(LedgerSettings(home=home, base_models=(base_model,)))
        self.process = WarmProcess("tiny", "cpu")
        self.worker = self.hire()

    def hire(self) -> Worker:
        """A new worker, as after a restart of the trainer."""
        return Worker(
            ledger=self.ledger,
            process=self.process,
            settings=TrainerSettings(),
            base_model="tiny",
            worker_id=str(self.home),
            work_dir=self.home / "work",
            metrics=Metrics(),
            placement=Placement(),
        )

    def submit(self, rows: int = 60, *, name: str = "bot", **spec: Any) -> str:
        """Ask for a job of so many rows."""
        data = write_rows(self.home / "rows.jsonl", rows)
        file = self.ledger.files.add(data, filename="rows.jsonl", purpose="fine-tune")
        new: NewJob = replace(
            new_job(name, "tiny"), training_file=file.id, spec=make_spec(seed=7, **spec)
        )
        self.ledger.jobs.submit(new, render=render)
        return new.id

    def job(self, job_id: str) -> Job:
        return self.ledger.jobs.get(job_id)

    def turn_until(self, done: Callable[[], bool], patience: float = PATIENCE) -> float:
        """Work until then; how many seconds that took."""
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < patience, "it never came to that"
            self.worker.turn()
        return time.monotonic() - began

    def weights(self, job_id: str) -> bytes:
        """What the job has published."""
        version = self.ledger.registry.version(str(self.job(job_id).fine_tuned_model))
        directory = self.ledger.registry.directory(version)
        return (directory / "adapter_model.safetensors").read_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop(grace=0)
        self.ledger.close()


def _share_compiled(home: Path, folder: Path) -> None:
    """Each home would have its own compiled, which takes two seconds."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        LedgerSettings(home=home).compiled_dir.symlink_to(folder)


def write_rows(path: Path, rows: int) -> Path:
    """Short conversations, each another one."""
    with path.open("w") as file:
        for at in range(rows):
            question = {"role": "user", "content": f"what is number {at}?"}
            answer = {"role": "assistant", "content": f"it is {at * 7}, of course"}
            file.write(json.dumps({"messages": [question, answer]}) + "\n")
    return path
