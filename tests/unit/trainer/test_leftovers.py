from pathlib import Path

from adapters.files import NewFile, NewUpload
from adapters.ledger import open_ledger
from adapters.records import Reply
from adapters.settings import LedgerSettings
from tests.support.clock import Clock
from trainer.freight import Freight
from trainer.hands import Hands
from trainer.leftovers import Leftovers
from trainer.metrics import Metrics
from trainer.settings import TrainerSettings


def brought(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def test_expired_files_and_parts_that_nobody_wants_are_removed_after_a_while(
    tmp_path: Path,
) -> None:
    clock = Clock()
    ledger = open_ledger(LedgerSettings(home=tmp_path), clock=clock)
    new = NewFile(filename="f", purpose="evals", bytes=1, digest="d" * 64, expires_after=3600)
    ledger.files.submit(
        brought(tmp_path / "b"), new, render=lambda file: Reply(status=200, body=file.id)
    )
    announced = NewUpload(bytes=1, filename="f", mime_type="m", purpose="evals")
    upload = ledger.uploads.create(
        announced, render=lambda upload: Reply(status=200, body=upload.id)
    ).body
    ledger.uploads.add_part(upload, brought(tmp_path / "b"))
    settings = TrainerSettings(purge_after_seconds=60, keep_deliveries_seconds=60)
    work_dir = tmp_path / "work"
    leftovers = Leftovers(ledger, work_dir, settings, Freight(ledger, work_dir))
    hands = Hands(ledger, Metrics())
    kept = [tmp_path / "artifacts" / folder for folder in ("files", "parts")]
    clock.tick(3600 + 59)
    leftovers.purge(hands)
    assert [len(list(folder.iterdir())) for folder in kept] == [1, 1]
    clock.tick(2)
    leftovers.purge(hands)
    assert [len(list(folder.iterdir())) for folder in kept] == [0, 0]
    ledger.close()
