"""Adapters in PEFT's layout, made without torch: good ones, and what they are packed in."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "base_model.model."
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1}
#: A base model with two blocks.
LAYERS = {
    f"model.layers.{block}.{name}": shape
    for block in range(2)
    for name, shape in {
        "self_attn.q_proj": (8, 8),
        "self_attn.v_proj": (4, 8),
        "mlp.down_proj": (8, 12),
    }.items()
}
RANK = 4


def number(value: float, dtype: str) -> bytes:
    """One number as it lies in the file."""
    match dtype:
        case "F64":
            return struct.pack("<d", value)
        case "F32":
            return struct.pack("<f", value)
        case "BF16":
            return struct.pack("<f", value)[2:]
        case "F16":
            return struct.pack("<e", value)
        case _:
            return struct.pack("<b", int(value))


@dataclass
class Stored:
    """A tensor before it is written."""

    shape: tuple[int, ...]
    dtype: str = "F32"
    value: float = 0.25
    #: The first number, where it is another one.
    first: float | None = None

    def data(self) -> bytes:
        count = 1
        for size in self.shape:
            count *= size
        rest = number(self.value, self.dtype) * count
        if self.first is None or not count:
            return rest
        return number(self.first, self.dtype) + rest[WIDTHS[self.dtype] :]


@dataclass
class Adapter:
    """What makes an adapter, for a test to spoil."""

    config: dict[str, Any]
    tensors: dict[str, Stored]
    #: In their place, where a test wants to write them itself.
    raw_config: bytes | None = None
    raw_weights: bytes | None = None
    #: Beside the two files.
    files: dict[str, bytes] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def weights(self) -> bytes:
        return self.raw_weights if self.raw_weights is not None else safetensors(self.tensors)

    def contents(self) -> dict[str, bytes]:
        """The files of its folder by name."""
        config = self.raw_config
        found = {
            "adapter_config.json": json.dumps(self.config).encode() if config is None else config,
            "adapter_model.safetensors": self.weights(),
        } | self.files
        return {name: data for name, data in found.items() if name not in self.without}

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, data in self.contents().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    def layer(self, layer: str, factor: str) -> Stored:
        return self.tensors[key(layer, factor)]


def key(layer: str, factor: str) -> str:
    return f"{PREFIX}{layer}.lora_{factor}.weight"


def good_adapter(
    *,
    dtype: str = "F32",
    rank: int = RANK,
    layers: Mapping[str, tuple[int, int]] = LAYERS,
    ranks: Mapping[str, int] | None = None,
    base_model: str = "tiny-base",
) -> Adapter:
    """An adapter for that base model, as PEFT saves it. `ranks` are those of layers that have another one."""
    tensors = {}
    for layer, (outputs, inputs) in layers.items():
        of_layer = (ranks or {}).get(layer, rank)
        tensors[key(layer, "A")] = Stored((of_layer, inputs), dtype)
        tensors[key(layer, "B")] = Stored((outputs, of_layer), dtype, value=-0.5)
    config = {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "corda_config": None,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "qalora_group_size": 16,
        "r": rank,
        "rank_pattern": dict(ranks or {}),
        "revision": None,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in layers}),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }
    return Adapter(config, tensors)


def safetensors(tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    data = b""
    for name, tensor in tensors.items():
        bytes_of = tensor.data()
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(bytes_of)],
        }
        data += bytes_of
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


@contextmanager
def taring(target: io.BytesIO) -> Iterator[tarfile.TarFile]:
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        yield tar


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **about: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for attribute, value in about.items():
        setattr(info, attribute, value)
    tar.addfile(info, io.BytesIO(data))


def packed(adapter: Adapter, folder: str = "my-adapter/", *, zipped: bool = False) -> bytes:
    """The adapter's folder as a tar, or a tar.gz."""
    target = io.BytesIO()
    with taring(target) as tar:
        for name, data in adapter.contents().items():
            add(tar, folder + name, data)
    return gzip.compress(target.getvalue(), mtime=0) if zipped else target.getvalue()
