"""What is right is taken, whatever it was packed in, and nothing but what was brought is taken."""

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from adapters.errors import InvalidAdapter
from adapters.peft.check import BaseNames, Checked, check_adapter
from adapters.peft.tar import Limits
from adapters.peft.tensors import read_tensors
from adapters.peft.unpack import unpack
from service.tar import tar_stream
from tests.support.peft_adapters import LAYERS, Adapter, add, good_adapter, packed

LIMITS = Limits(1 << 22)
LAYER = "model.layers.1.self_attn.q_proj"
WHOLE = packed(good_adapter())
PLAIN = good_adapter().contents()


def take(archive: bytes, folder: Path) -> tuple[Checked, dict[str, bytes]]:
    """What an import finds in the archive, and the files that would be kept."""
    target = folder / "target"
    target.mkdir(parents=True)
    (folder / "archive").write_bytes(archive)
    unpack(folder / "archive", target, LIMITS)
    checked = check_adapter(target, layers=LAYERS, max_rank=64, names=BaseNames(("tiny-base",)))
    return checked, {path.name: path.read_bytes() for path in target.iterdir()}


def tar_of(kind: int, folder: str, adapter: Adapter) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=kind) as tar:
        add(tar, folder, type=tarfile.DIRTYPE)
        for name, data in adapter.contents().items():
            add(tar, f"{folder}/{name}", data)
    return target.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", [".", "a", "über", "/".join(["long-name"] * 24)])
@pytest.mark.parametrize("zipped", [False, True])
def test_any_tar_of_the_folder_gives_its_files(
    kind: int, folder: str, zipped: bool, tmp_path: Path
) -> None:
    if kind == tarfile.USTAR_FORMAT and len(folder) > 100:
        folder = folder[:90]
    archive = tar_of(kind, folder, good_adapter())
    _, files = take(gzip.compress(archive) if zipped else archive, tmp_path)
    assert files == PLAIN


def test_what_is_downloaded_here_can_be_brought_here(tmp_path: Path) -> None:
    made = good_adapter().write(tmp_path / "made")
    (made / "graft.json").write_text("{}")
    _, files = take(b"".join(tar_stream(made, "bot-1")), tmp_path / "brought")
    assert files == PLAIN | {"graft.json": b"{}"}


def test_of_a_trainers_folder_the_adapter_at_the_top_is_meant(tmp_path: Path) -> None:
    adapter = good_adapter()
    step = good_adapter(dtype="F16").contents()
    adapter.files = {f"checkpoint-5/{name}": data for name, data in step.items()}
    adapter.files |= {"training_args.bin": b"\x80\x04", "README.md": b"#", "tokenizer.json": b"{}"}
    _, files = take(packed(adapter), tmp_path)
    assert files == PLAIN


CONFIGS: dict[str, dict[str, object]] = {
    "targets as an expression": {"target_modules": r".*\.(q_proj|v_proj|down_proj)"},
    "whole paths": {"target_modules": list(LAYERS)},
    "exclusion of what is not there": {"exclude_modules": ["lm_head"]},
    "all blocks": {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    "a harmless start": {"init_lora_weights": "gaussian"},
    "rank-stabilised": {"use_rslora": True},
    "no base named": {"base_model_name_or_path": None},
    "the base in a folder": {"base_model_name_or_path": "/home/me/models/Tiny_Base/"},
    "an option of the future that is off": {"use_magic": None, "magic": False},
    "a fraction of alpha": {"lora_alpha": 0.5},
    "where PEFT says its classes are": {
        "auto_mapping": {
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
        },
        "megatron_core": "megatron.core",
    },
    "alpha by layer": {"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 4, "v_proj": 2.5}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_options_that_are_served_are_taken(name: str, tmp_path: Path) -> None:
    adapter = good_adapter()
    adapter.config |= CONFIGS[name]
    checked, _ = take(packed(adapter), tmp_path)
    assert checked.rslora is (name == "rank-stabilised")
    assert checked.uniform is (name != "alpha by layer")
    assert bool(checked.warnings) is (name == "no base named")


def test_of_a_rank_pattern_the_first_key_that_fits_counts(tmp_path: Path) -> None:
    adapter = good_adapter(ranks={LAYER: 2, "model.layers.0.self_attn.q_proj": 8})
    adapter.config["rank_pattern"] = {"layers.1.self_attn.q_proj": 2, "q_proj": 8}
    checked, _ = take(packed(adapter), tmp_path)
    assert (checked.rank, checked.uniform) == (8, False)
    adapter.config["rank_pattern"] = {"q_proj": 8, "layers.1.self_attn.q_proj": 2}
    with pytest.raises(InvalidAdapter, match="has rank 2; by"):
        take(packed(adapter), tmp_path / "other")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_largest_numbers_are_numbers(dtype: str, tmp_path: Path) -> None:
    adapter = good_adapter(dtype=dtype)
    adapter.tensors = {
        name: type(one)(one.shape, dtype, first=-60000.0) for name, one in adapter.tensors.items()
    }
    assert take(packed(adapter), tmp_path)[0].warnings == ()


@dataclass(frozen=True)
class Damage:
    """Something that happens to bytes, at places that are taken modulo their number."""

    kind: str
    at: int
    to: int
    bits: int

    def do(self, whole: bytes) -> bytes:
        if not whole:
            return whole
        at, to = sorted((self.at % len(whole), self.to % len(whole)))
        match self.kind:
            case "flip":
                return whole[:at] + bytes([whole[at] ^ self.bits]) + whole[at + 1 :]
            case "cut":
                return whole[:at]
            case "lose":
                return whole[:at] + whole[to:]
            case _:
                return whole[:to] + whole[at:]


anywhere = st.integers(0, 1 << 16)
damages = st.lists(
    st.builds(
        Damage,
        kind=st.sampled_from(["flip", "flip", "flip", "cut", "lose", "repeat"]),
        at=anywhere,
        to=anywhere,
        bits=st.integers(1, 255),
    ),
    min_size=1,
    max_size=3,
)


def described(weights: bytes, folder: Path) -> dict[str, object]:
    (folder / "weights").write_bytes(weights)
    return {one.name: (one.dtype, one.shape) for one in read_tensors(folder / "weights")}


def survives(archive: bytes, folder: Path) -> dict[str, bytes] | None:
    """The files that would be kept; None where it is refused, in our own words."""
    try:
        return take(archive, folder)[1]
    except InvalidAdapter as refused:
        return None if refused.details else {}


@given(damages=damages)
@settings(max_examples=200, deadline=None)
def test_a_damaged_tar_gz_is_refused_or_gives_what_was_packed(
    damages: list[Damage], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The checksum of gzip is over everything: no other tensors come out, and no other error."""
    archive = gzip.compress(WHOLE, mtime=0)
    for damage in damages:
        archive = damage.do(archive)
    files = survives(archive, tmp_path_factory.mktemp("damaged"))
    assert files in (None, PLAIN)


@given(damages=damages)
@settings(max_examples=300, deadline=None)
def test_a_damaged_tar_is_refused_or_has_the_same_tensors(
    damages: list[Damage], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A tar has no checksum over data: numbers may be others, but finite; names, types and shapes are the same."""
    archive = WHOLE
    for damage in damages:
        archive = damage.do(archive)
    folder = tmp_path_factory.mktemp("damaged")
    files = survives(archive, folder)
    if files is not None:
        weights = "adapter_model.safetensors"
        assert described(files[weights], folder) == described(PLAIN[weights], folder)
