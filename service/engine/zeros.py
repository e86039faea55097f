"""An adapter that changes nothing, under the base model's own id: how a base model is served on a CPU.

Whatever vLLM 0.32 computes there without an adapter in a batch that has some, it computes with the weights of the last
adapter slot. So nothing is computed without one: docs/adr/0036-on-a-cpu-the-base-model-is-an-adapter-of-zeros.md.
"""

import json
import struct
from pathlib import Path

from adapters.durable import new_directory
from adapters.errors import Unavailable
from adapters.layers import LinearLayers
from adapters.manifest import BaseModelCard

_PREFIX = "base_model.model."
_FLOAT32_BYTES = 4


def zeros_dir(socket: Path) -> Path:
    """Where the adapter lies: beside the engine's socket, as long as the engine runs, which may read it again."""
    return socket.with_suffix(".zeros")


def bare_name(model_id: str) -> str:
    """What vLLM calls the base model without the adapter. Nobody asks for that."""
    return f"{model_id}@bare"


def write_zeros(directory: Path, card: BaseModelCard, layers: LinearLayers) -> None:
    """Write it in PEFT's layout. Raises Unavailable where there is no layer to adapt, OSError.

    Args:
        directory: comes into being complete or not at all.
        card: of the base model.
        layers: its linear layers. One of them is enough: vLLM sets a slot to zeros wherever an adapter has nothing.
    """
    adapted = (name for name in layers if name.rpartition(".")[2] in card.linear_modules)
    layer = next(adapted, None)
    if layer is None:
        raise Unavailable(f"The base model '{card.id}' has no linear layer to adapt.")
    with new_directory(directory) as aside:
        weights = _weights(layer, *layers[layer])
        (aside / "adapter_model.safetensors").write_bytes(weights)
        config = _config(layer.rpartition(".")[2], card.id)
        (aside / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _config(module: str, base_id: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_id,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "target_modules": [module],
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
    }


def _weights(layer: str, outputs: int, inputs: int) -> bytes:
    """A file of safetensors with A [1, inputs] and B [outputs, 1]: header's length, header, numbers."""
    middle, end = _FLOAT32_BYTES * inputs, _FLOAT32_BYTES * (inputs + outputs)
    header = {
        "__metadata__": {"format": "pt"},
        f"{_PREFIX}{layer}.lora_A.weight": _tensor([1, inputs], 0, middle),
        f"{_PREFIX}{layer}.lora_B.weight": _tensor([outputs, 1], middle, end),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(end)


def _tensor(shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
