"""How many requests of each operation."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=45, help="requests of each operation")
