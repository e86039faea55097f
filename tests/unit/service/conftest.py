"""The service in this process, and who speaks with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from adapters.ledger import Ledger, open_ledger
from tests.support.in_process import answering, ledger_settings, sdk


@pytest.fixture
def http(tmp_path: Path) -> Iterator[TestClient]:
    with answering(tmp_path) as client:
        yield client


@pytest.fixture
def client(http: TestClient) -> OpenAI:
    return sdk(http, max_retries=0)


@pytest.fixture
def ledger(http: TestClient, tmp_path: Path) -> Iterator[Ledger]:
    """A second hand in the ledger."""
    ledger = open_ledger(ledger_settings(tmp_path))
    yield ledger
    ledger.close()
