from pathlib import Path

import pytest

from adapters.errors import InvalidValue
from trainer import settings as module
from trainer.settings import TrainerSettings, visible_gpus


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with four GPUs and a torch that knows them."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "version", lambda _: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_all_gpus_are_counted_and_nothing_else(dev: Path) -> None:
    assert visible_gpus(dev) == 4
    assert visible_gpus(dev / "empty") == 0


@pytest.mark.parametrize(
    ("shown", "count"),
    [("0", 1), ("2,3", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("0,9,1", 1), ("GPU-ab, GPU-cd", 2)],
)
def test_gpus_that_cuda_would_not_see_do_not_count(
    shown: str, count: int, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus(dev) == count


def test_a_torch_that_knows_no_gpu_sees_none(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda _: "2.13.0+cpu")
    assert visible_gpus(dev) == 0


@pytest.mark.parametrize(
    ("gpus", "names"), [(0, ("cpu",)), (1, ("cuda:0",)), (2, ("cuda:0", "cuda:1"))]
)
def test_auto_means_every_gpu_or_else_the_cpu(
    gpus: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "visible_gpus", lambda: gpus)
    assert TrainerSettings().device_names == names


def test_devices_can_be_named_also_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainerSettings(devices=["cuda:1", "cpu"]).device_names == ("cuda:1", "cpu")
    monkeypatch.setenv("GRAFT_TRAINER_DEVICES", '["cuda:3"]')
    assert TrainerSettings().device_names == ("cuda:3",)
    monkeypatch.setenv("GRAFT_TRAINER_DEVICES", "auto")
    assert TrainerSettings().devices == "auto"


def test_a_process_of_several_ranks_gets_as_many_devices() -> None:
    five = [f"cuda:{number}" for number in range(5)]
    names = TrainerSettings(devices=five, ranks=2).device_names
    assert names == ("cuda:0,cuda:1", "cuda:2,cuda:3")
    assert TrainerSettings(devices=["cpu"], ranks=2).device_names == ("cpu,cpu",)


@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cpu"]])
def test_too_few_or_unlike_devices_for_the_ranks_are_refused(devices: list[str]) -> None:
    with pytest.raises(InvalidValue, match=r"trainer\.ranks is 2"):
        _ = TrainerSettings(devices=devices, ranks=2).device_names


@pytest.mark.parametrize("devices", [[], ["cpu", "cpu"], ["gpu"], ["cuda"], ["cuda:0:1"], "cpu"])
def test_what_is_no_list_of_devices_is_refused(devices: object) -> None:
    with pytest.raises(InvalidValue, match="devices"):
        TrainerSettings(devices=devices)


@pytest.mark.parametrize("value", [{"max_losses": 2}, {"max_jobs": 0}])
def test_bounds_are_kept(value: dict[str, int]) -> None:
    with pytest.raises(InvalidValue):
        TrainerSettings(**value)


def test_a_quantised_base_is_not_spread_over_several_devices() -> None:
    with pytest.raises(InvalidValue, match="quantization and several ranks"):
        TrainerSettings(quantization="nf4", ranks=2)
