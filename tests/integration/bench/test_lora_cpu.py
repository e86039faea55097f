"""The sketch for vLLM's adapters on a CPU computes what each token's own product would."""

import torch
from hypothesis import given, settings, strategies as st

from bench.lora_cpu import add_lora_grouped, groups_of

SLOTS, PADDED, INPUTS, WIDTHS = 3, 8, 6, (5, 2)


def factors(ranks: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of every slot, padded with nought beyond its rank."""
    within = (torch.arange(PADDED) < torch.tensor(ranks)[:, None]).float()
    a = [torch.randn(SLOTS, 1, PADDED, INPUTS) * within[:, None, :, None] for _ in WIDTHS]
    b = [torch.randn(SLOTS, 1, width, PADDED) * within[:, None, None, :] for width in WIDTHS]
    return a, b


@given(
    st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=12),
    st.lists(st.integers(1, PADDED), min_size=SLOTS, max_size=SLOTS),
)
@settings(max_examples=50)
def test_every_token_gets_its_own_adapter_and_one_without_gets_none(
    slots: list[int], ranks: list[int]
) -> None:
    torch.manual_seed(0)
    a, b = factors(ranks)
    x, before = torch.randn(len(slots), INPUTS), torch.randn(len(slots), sum(WIDTHS))
    y = before.clone()
    add_lora_grouped(y, x, a, b, WIDTHS, groups_of(torch.tensor(slots), ranks))
    for row, slot in enumerate(slots):
        added = [
            b_one[slot, 0] @ (a_one[slot, 0] @ x[row]) for a_one, b_one in zip(a, b, strict=True)
        ]
        wanted = before[row] + torch.cat(added) if slot >= 0 else before[row]
        torch.testing.assert_close(y[row], wanted, rtol=1e-4, atol=1e-5)


def test_adjacent_tokens_of_an_adapter_are_not_gathered() -> None:
    first, second = groups_of(torch.tensor([1, 1, -1, 0, 0]), [8, 8])
    assert (first.slot, first.rows) == (0, slice(3, 5))
    assert (second.slot, second.rows) == (1, slice(0, 2))
