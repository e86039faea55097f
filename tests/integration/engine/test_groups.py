"""What adapters add to a layer inside vLLM: what each token's own product would be."""

import torch
from hypothesis import given, settings, strategies as st

from vllm_plugin.groups import add_adapters, groups_of

SLOTS, RANK, INPUTS, WIDTHS = 3, 4, 6, (5, 2)


def factors(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of every slot."""
    a = [torch.randn(SLOTS, 1, RANK, INPUTS, dtype=dtype) for _ in WIDTHS]
    b = [torch.randn(SLOTS, 1, width, RANK, dtype=dtype) for width in WIDTHS]
    return a, b


@given(
    slots=st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=12),
    padding=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=100)
def test_every_token_gets_its_own_adapter_and_one_without_gets_none(
    slots: list[int], padding: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    a, b = factors(dtype)
    rows = len(slots) + padding
    x = torch.randn(rows, INPUTS, dtype=dtype)
    before = torch.randn(rows, sum(WIDTHS), dtype=dtype)
    y = before.clone()
    add_adapters(y, x, a, b, WIDTHS, groups_of(slots))
    near = {"rtol": 0.05, "atol": 0.1} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    for row in range(rows):
        slot = slots[row] if row < len(slots) else -1
        if slot < 0:
            assert torch.equal(y[row], before[row])
            continue
        added = [
            b_one[slot, 0] @ (a_one[slot, 0] @ x[row]) for a_one, b_one in zip(a, b, strict=True)
        ]
        torch.testing.assert_close(y[row], before[row] + torch.cat(added), **near)


def test_adjacent_tokens_of_an_adapter_are_not_gathered() -> None:
    first, second, third = groups_of([1, 1, -1, 0, 0, 2, 1, 2])
    assert (first.slot, first.rows.tolist()) == (1, [0, 1, 6])
    assert (second.slot, second.rows) == (0, slice(3, 5))
    assert (third.slot, third.rows.tolist()) == (2, [5, 7])
