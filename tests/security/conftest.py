"""One service for the tests of a module, and a loop that lives as long."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.security.house import House, living


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with living(tmp_path_factory.mktemp("security")) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unlocked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """The same without keys, as `make serve` starts it."""
    async with living(tmp_path_factory.mktemp("unlocked"), auth=False) as house:
        yield house
