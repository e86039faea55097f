"""Wide products in pieces come to what they come to in one."""

import pytest
import torch
from torch.nn.functional import linear

from trainer.warm import wide
from trainer.warm.wide import wide_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("outputs", [5, 16, 17, 40])
def test_pieces_are_the_whole(monkeypatch, outputs, bias, dtype):
    monkeypatch.setattr(wide, "COLUMNS_OF_A_THREAD", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    x_TI, weight_OI = torch.randn(3, 6, dtype=dtype), torch.randn(outputs, 6, dtype=dtype)
    bias_O = torch.randn(outputs, dtype=dtype) if bias else None

    y_TO = wide_linear(x_TI, weight_OI, bias_O)

    assert y_TO.is_contiguous()
    torch.testing.assert_close(y_TO, linear(x_TI, weight_OI, bias_O))


def test_what_was_not_measured_is_computed_as_torch_does(monkeypatch):
    monkeypatch.setattr(torch, "mm", None)
    x_TI, weight_OI = torch.randn(2, 4).bfloat16(), torch.randn(5000, 4).bfloat16()

    assert torch.equal(wide_linear(x_TI, weight_OI), linear(x_TI, weight_OI))


def test_a_wide_product_is_in_pieces(monkeypatch):
    widths = []
    product = torch.mm
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(
        torch, "mm", lambda x, w, out: (widths.append(w.shape[1]), product(x, w, out=out))
    )

    wide_linear(torch.randn(2, 4), torch.randn(1300, 4))

    assert widths == [512, 512, 276]
