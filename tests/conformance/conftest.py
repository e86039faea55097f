"""One suite, every implementation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.ledger import Ledger, open_ledger
from adapters.settings import LedgerSettings, QueueSettings, QuotaSettings
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rules() -> QueueSettings:
    """Whose turn it is; a module that wants it otherwise has a fixture of its own."""
    return QueueSettings()


@pytest.fixture
def quotas() -> QuotaSettings:
    """How much a tenant may take; a module that wants it otherwise has a fixture of its own."""
    return QuotaSettings()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(
    tmp_path: Path,
    clock: Clock,
    rules: QueueSettings,
    quotas: QuotaSettings,
    request: pytest.FixtureRequest,
) -> Iterator[Ledger]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("database_url")
    settings = LedgerSettings(home=tmp_path, database_url=url)
    ledger = open_ledger(settings, queue=rules, quotas=quotas, clock=clock)
    yield ledger
    ledger.close()
