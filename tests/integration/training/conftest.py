"""Fixtures: the tiny base model, on disk and in memory."""

from pathlib import Path

import pytest
import torch

from tests.integration.training.tiny import make_base, write_model
from trainer.warm.model import BaseModel


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers directory as one would get it from the hub."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    write_model(directory)
    return directory


@pytest.fixture(scope="session")
def base(model_dir: Path) -> BaseModel:
    return make_base(model_dir)


@pytest.fixture(scope="session")
def base64(model_dir: Path) -> BaseModel:
    return make_base(model_dir, torch.float64)


@pytest.fixture(autouse=True)
def _no_segments_left(request: pytest.FixtureRequest):
    """No pass leaves its routing behind."""
    yield
    for name in ("base", "base64"):
        if name in request.fixturenames:
            assert request.getfixturevalue(name).routing.segments == ()
