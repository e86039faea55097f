"""What engines may read stays until they hold it no longer."""

from dataclasses import replace
from pathlib import Path

from adapters.records import Version
from adapters.weights import Weights
from service.loans import Loans
from tests.support.samples import version


def bot(name: str, base_model: str = "org/base") -> Version:
    return replace(version(), adapter=name, base_model=base_model)


def lend(weights: Weights, into: Path) -> Path:
    directory = into / weights.digest
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_what_an_engine_no_longer_holds_is_given_back_and_nothing_else(tmp_path: Path) -> None:
    loans = Loans(lend, tmp_path)
    kept, gone, others = (
        loans.directory(bot("a")),
        loans.directory(bot("b")),
        loans.directory(bot("b", "other")),
    )
    # As another process after a restart of the service, which remembers nothing.
    Loans(lend, tmp_path).keep_only("org/base", {"a@1"})
    assert (kept.exists(), gone.exists(), others.exists()) == (True, False, True)
    loans.keep_only("never-seen", set())
