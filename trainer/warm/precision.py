"""In what number format the base model computes. Adapters, gradients and moments are float32 in any case."""

from typing import Literal, TypeAlias

import torch

Choice: TypeAlias = Literal["auto", "bfloat16", "float16", "float32"]

#: The first GPUs with matrix units for float16 (NVIDIA, "CUDA C++ Programming Guide", compute capability 7.0).
MATRIX_UNITS = (7, 0)


def choose_dtype(device: torch.device, choice: Choice = "auto") -> torch.dtype:
    """What was asked for, or what is best here.

    float32 on a CPU, where it is fastest; on a GPU the first of bfloat16, float16 (with loss scaling, see scaling.py)
    and float32 that it has units for.
    """
    if choice != "auto":
        dtype: torch.dtype = getattr(torch, choice)
        return dtype
    if device.type != "cuda":
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if torch.cuda.get_device_capability(device) >= MATRIX_UNITS:
        return torch.float16
    return torch.float32
