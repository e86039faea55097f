"""The trained adapter as a plain PEFT directory, which PEFT and vLLM load without knowing of us."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters.durable import new_directory
from adapters.errors import NotServable
from trainer.warm.adapter import Adapter, suffixes

#: Before the module path in PEFT's files: PeftModel.base_model (LoraModel) .model (the transformers model).
PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def export(
    adapter: Adapter,
    directory: Path,
    *,
    base_id: str,
    dtype: torch.dtype,
    weights_P: Tensor | None = None,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`. Raises OSError.

    Args:
        adapter: what is adapted, and how.
        directory: comes into being complete or not at all.
        base_id: goes into `base_model_name_or_path`; nothing resolves it.
        dtype: of the stored weights: the base model's, except that float64 is stored as float32.
        weights_P: laid out as the adapter's own, which are taken otherwise.
    """
    stored = torch.float32 if dtype == torch.float64 else dtype
    tensors = {}
    for name, (a_RI, b_OR) in adapter.views(weights_P).items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a_RI.to("cpu", stored).contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b_OR.to("cpu", stored).contiguous()
    with new_directory(directory) as aside:
        save_file(tensors, aside / WEIGHTS, metadata={"format": "pt"})
        config = adapter_config(adapter, base_id)
        (aside / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_into(adapter: Adapter, directory: Path) -> None:
    """Load what `export` wrote, or any PEFT LoRA of the same shape.

    Raises:
        NotServable: its layers or its rank are others than the adapter's.
        OSError: it cannot be read.
    """
    try:
        with safe_open(directory / WEIGHTS, "pt") as file:
            views = {
                name: (
                    file.get_tensor(f"{PREFIX}{name}.lora_A.weight"),
                    file.get_tensor(f"{PREFIX}{name}.lora_B.weight"),
                )
                for name in adapter.shapes
            }
        adapter.load_views(views)
    except (SafetensorError, RuntimeError) as error:
        raise NotServable(f"The version to continue from is of another shape: {error}.") from error


def adapter_config(adapter: Adapter, base_id: str) -> dict[str, object]:
    """PEFT's LoraConfig. Whatever vLLM refuses or ignores (DoRA, bias, rank patterns) is off by construction."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_id,
        "r": adapter.spec.rank,
        "lora_alpha": adapter.spec.alpha,
        "lora_dropout": adapter.spec.dropout,
        "target_modules": targets_in_file(adapter.shapes),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": adapter.spec.rslora,
    }


def targets_in_file(names: Iterable[str]) -> list[str]:
    """The suffixes of the adapted layers; vLLM compares only the last component of a module path."""
    return sorted(suffixes(names))
