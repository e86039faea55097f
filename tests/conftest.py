"""What every suite may use."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from tools.postgres import binaries

# A deadline is a timed test: on a busy machine it fails for no fault of ours.
hypothesis.settings.register_profile("graft", deadline=None)
hypothesis.settings.load_profile("graft")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server, one for all tests. `make test` has seen to it that there is one (`make postgres`)."""
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed; `make postgres` sees to it")
    from tests.support.postgres import Server  # only who needs it pays for its driver

    server = Server(found)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def database_url(postgres: Any) -> Iterator[str]:
    """A new database on it, with our tables."""
    name = postgres.create(migrated=True)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def empty_database_url(postgres: Any) -> Iterator[str]:
    """A new database on it, with nothing in it."""
    name = postgres.create(migrated=False)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Any]:
    """An S3 server, one for all tests. It is a package of the development group."""
    from tests.support.seaweed import SeaweedServer, find_weed

    server = SeaweedServer(find_weed())
    server.start()
    yield server
    server.remove()
