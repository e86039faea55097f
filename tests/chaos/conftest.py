"""What the experiments share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import scoreboard
from tests.chaos.machines import Common, common
from tests.chaos.nursery import Nursery
from tests.chaos.sizes import CI, RELEASE, Chaos, chaos_of
from tests.support.seaweed import SeaweedServer

_KEY = pytest.StashKey[Chaos]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos", choices=[CI, RELEASE], default=CI, help="size of the experiments")
    group.addoption("--soak", type=float, default=36, help="how many seconds R15 lasts")
    group.addoption("--scoreboard", type=Path, help="page whose table is to say what was found")


@pytest.fixture(scope="session")
def chaos(pytestconfig: pytest.Config) -> Chaos:
    if _KEY not in pytestconfig.stash:
        pytestconfig.stash[_KEY] = chaos_of(pytestconfig)
    return pytestconfig.stash[_KEY]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def shared(database_url: str, seaweed: SeaweedServer) -> Iterator[Common]:
    """What machines of one installation have in common."""
    with common(database_url, seaweed) as found:
        yield found


def pytest_sessionfinish(session: pytest.Session) -> None:
    page = session.config.getoption("--scoreboard", default=None)
    if page is not None and _KEY in session.config.stash:
        scoreboard.write(page, session.config.stash[_KEY])
