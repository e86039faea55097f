"""One suite, every implementation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.ledger import Ledger, open_ledger
from adapters.settings import LedgerSettings
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(tmp_path: Path, clock: Clock, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("database_url")
    ledger = open_ledger(LedgerSettings(home=tmp_path, database_url=url), clock=clock)
    yield ledger
    ledger.close()
