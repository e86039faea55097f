"""Fixtures: the tiny base model, on disk and in memory."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.integration.training.tiny import make_base, write_model
from trainer.warm.model import BaseModel
from trainer.warm.native import build
from trainer.warm.native.library import Dense, Kernels, Lowrank, open_kernels


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
def kernels(kernel_folder: Path) -> Kernels:
    """All of them, compiled here, whether or not they pay on this processor."""
    if not any(map(shutil.which, build.COMPILERS)):
        pytest.skip("there is no C compiler on this machine")
    return Kernels(*open_kernels(kernel_folder))


@pytest.fixture(scope="session")
def kernel(kernels: Kernels) -> Lowrank:
    """For adapters' products."""
    assert kernels.lowrank is not None
    return kernels.lowrank


@pytest.fixture(scope="session")
def dense(kernels: Kernels) -> Dense:
    """For frozen weights'."""
    assert kernels.dense is not None
    return kernels.dense


@pytest.fixture(params=["x86-64", "x86-64-v3"])
def shorter(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Lowrank, Dense]:
    """The kernels as they are for processors with shorter vectors, SSE and AVX2."""
    if build.platform.machine() != "x86_64":
        pytest.skip("this machine's processor is of another family")
    monkeypatch.setitem(build.TUNING, "x86_64", f"-march={request.param}")
    return open_kernels(tmp_path)


@pytest.fixture(autouse=True)
def _no_segments_left(request: pytest.FixtureRequest):
    """No pass leaves its routing behind."""
    yield
    for name in ("base", "base64"):
        if name in request.fixturenames:
            assert request.getfixturevalue(name).routing.segments == ()
