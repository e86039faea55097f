from pathlib import Path

import pytest

from adapters.errors import Unavailable
from adapters.peft.check import check_adapter
from adapters.peft.tensors import read_tensors
from service.engine.client import VllmEngine
from service.engine.zeros import write_zeros
from tests.support.fake_engine import FakeEngine
from tests.support.peft_adapters import LAYERS
from tests.support.samples import BASE, card


def test_it_is_an_adapter_as_any_other_and_changes_nothing(tmp_path: Path) -> None:
    write_zeros(tmp_path / "zeros", card(), LAYERS)
    checked = check_adapter(tmp_path / "zeros", layers=LAYERS, max_rank=1)
    assert checked.rank == 1
    weights = tmp_path / "zeros" / "adapter_model.safetensors"
    tensors, raw = read_tensors(weights), weights.read_bytes()
    assert len(tensors) == 2
    assert not any(any(raw[tensor.start : tensor.stop]) for tensor in tensors)


def test_it_is_written_anew_at_each_start_of_an_engine(tmp_path: Path) -> None:
    for _ in range(2):
        write_zeros(tmp_path / "zeros", card(), LAYERS)
    assert len(list(tmp_path.iterdir())) == 1


def test_it_adapts_only_what_the_engine_makes_ready_for_adapters(tmp_path: Path) -> None:
    layers = {"model.layers.0.mlp.router": (4, 8), **LAYERS}
    write_zeros(tmp_path / "zeros", card(), layers)
    check_adapter(tmp_path / "zeros", layers=LAYERS, max_rank=1)
    with pytest.raises(Unavailable):
        write_zeros(tmp_path / "none", card(), {"model.layers.0.mlp.router": (4, 8)})


async def test_nobody_who_asks_what_is_loaded_hears_of_it(tmp_path: Path) -> None:
    write_zeros(tmp_path / "zeros", card(), LAYERS)
    fake = FakeEngine(tmp_path / "engine.sock", f"{BASE}@bare")
    await fake.start()
    engine = VllmEngine(fake.socket, BASE)
    await engine.load(BASE, tmp_path / "zeros")
    await engine.load("support-bot@1", tmp_path / "zeros")
    assert await engine.loaded() == {"support-bot@1"}
    await engine.close()
    await fake.kill()
