"""The fake engine does what vLLM does: the suite of tests/e2e/test_engine.py, run here without a model."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from service.engine.client import VllmEngine
from tests.conformance import engine_suite
from tests.support.fake_engine import FakeEngine
from tests.support.samples import adapter_directory

Check = Callable[[VllmEngine, str, Path], Awaitable[None]]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[VllmEngine]:
    fake = FakeEngine(tmp_path / "engine.sock", "base")
    await fake.start()
    client = VllmEngine(fake.socket, "base")
    yield client
    await client.close()
    await fake.kill()


@pytest.mark.parametrize("check", engine_suite.SUITE, ids=lambda check: check.__name__)
async def test_the_fake_engine(check: Check, engine: VllmEngine, tmp_path: Path) -> None:
    await check(engine, "base", adapter_directory(tmp_path / "adapter"))


async def test_an_engine_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    await engine_suite.an_engine_that_is_not_there_is_unavailable(tmp_path / "nothing.sock")
