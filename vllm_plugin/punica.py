"""vLLM's `PunicaWrapperCPU`, which copies an adapter's weights for each token of a batch, without the copies."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, compiler
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from vllm_plugin.groups import Group, add_adapters, groups_of


class GroupedPunica(PunicaWrapperCPU):
    """Told of each batch by vLLM's model runner, asked by each of its layers that may have adapters.

    Facts of release 0.32: `vllm/lora/punica_wrapper/punica_base.py`, `vllm/lora/layers/base_linear.py`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._groups: list[Group] = []

    def update_metadata(self, *args: Any, **options: Any) -> None:
        """Which token of the batch has which adapter."""
        super().update_metadata(*args, **options)
        self._groups = groups_of(self.token_lora_indices.tolist())

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Sequence[Tensor],
        lora_b_stacked: Sequence[Tensor],
        scale: float,
        output_slices: Sequence[int],
        **options: Any,
    ) -> None:
        """In place. `scale` is always 1: vLLM multiplies B by it when it loads an adapter."""
        # What is compiled is traced once, and would keep the groups of that batch. `--lora-dtype` may differ from the
        # base model's, and vLLM casts.
        one_format = lora_a_stacked[0].dtype == x.dtype == y.dtype
        if compiler.is_compiling() or not one_format or scale != 1.0:
            super().add_lora_linear(
                y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **options
            )
            return
        rows_y, rows_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        add_adapters(rows_y, rows_x, lora_a_stacked, lora_b_stacked, output_slices, self._groups)
