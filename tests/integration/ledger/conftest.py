from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.ledger import Ledger, open_ledger
from adapters.settings import LedgerSettings


@pytest.fixture(params=["sqlite", "postgres"])
def settings(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> LedgerSettings:
    """A home with a ledger of its own, for this process and for those that it starts."""
    if request.param == "postgres":
        monkeypatch.setenv("GRAFT_DATABASE_URL", request.getfixturevalue("database_url"))
    return LedgerSettings(home=tmp_path)


@pytest.fixture
def here(settings: LedgerSettings) -> Iterator[Ledger]:
    ledger = open_ledger(settings)
    yield ledger
    ledger.close()


@pytest.fixture
def there(settings: LedgerSettings) -> Iterator[Ledger]:
    ledger = open_ledger(settings)
    yield ledger
    ledger.close()
