"""Fixtures: the tiny base model, on disk and in memory."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.integration.training.tiny import make_base, write_model
from trainer.warm.model import BaseModel
from trainer.warm.native.build import COMPILERS
from trainer.warm.native.library import Lowrank, find_lowrank


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


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def kernel(kernel_folder: Path) -> Lowrank:
    """For small jobs' products, compiled here."""
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip("there is no C compiler on this machine")
    found = find_lowrank(kernel_folder)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _no_segments_left(request: pytest.FixtureRequest):
    """No pass leaves its routing behind."""
    yield
    for name in ("base", "base64"):
        if name in request.fixturenames:
            assert request.getfixturevalue(name).routing.segments == ()
