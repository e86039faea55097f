import threading
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.unit.cli.fake_graft import FakeGraft


@pytest.fixture
def graft(monkeypatch) -> Iterator[FakeGraft]:
    fake = FakeGraft()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("GRAFT_URL", fake.url)
    monkeypatch.setenv("GRAFT_API_KEY", "sesame")
    yield fake
    fake.server.shutdown()
    thread.join()
    fake.server.server_close()


@pytest.fixture
def run():
    def invoke(*words: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=typed)

    return invoke
