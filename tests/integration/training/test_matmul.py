"""Products made in parts come to what they come to in one."""

import pytest
import torch
from torch.nn.functional import linear as one_call

from trainer.warm import matmul
from trainer.warm.matmul import Matmul


@pytest.fixture(params=[1, 2, 3], ids=["one thread", "two threads", "three threads"])
def threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.fixture(params=[2, 100], ids=["many tokens", "few tokens"])
def few(request, monkeypatch):
    monkeypatch.setattr(matmul, "FEW", request.param)
    return request.param == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("outputs", [5, 16, 17, 40])
def test_parts_are_the_whole(monkeypatch, threads, few, outputs, bias, dtype):
    monkeypatch.setattr(matmul, "COLUMNS_OF_A_THREAD", 8)
    x_TI, weight_OI = torch.randn(3, 6, dtype=dtype), torch.randn(outputs, 6, dtype=dtype)
    bias_O = torch.randn(outputs, dtype=dtype) if bias else None

    y_TO = Matmul().linear(x_TI, weight_OI, bias_O)

    assert y_TO.is_contiguous()
    torch.testing.assert_close(y_TO, one_call(x_TI, weight_OI, bias_O))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs", [5, 6])
def test_a_gradient_in_parts_is_the_whole(threads, few, inputs, dtype):
    dy_TO, weight_OI = torch.randn(3, 7, dtype=dtype), torch.randn(7, inputs, dtype=dtype)

    dx_TI = Matmul().linear_backward(dy_TO, weight_OI)

    assert dx_TI.is_contiguous()
    torch.testing.assert_close(dx_TI, dy_TO @ weight_OI)


def test_what_was_not_measured_is_computed_as_torch_does(monkeypatch, threads, few):
    monkeypatch.setattr(torch, "mm", None)
    monkeypatch.setattr(torch, "bmm", None)
    x_TI, weight_OI = torch.randn(2, 4).bfloat16(), torch.randn(5000, 4).bfloat16()
    dy_TO = torch.randn(2, 5000).bfloat16()

    assert torch.equal(Matmul().linear(x_TI, weight_OI), one_call(x_TI, weight_OI))
    assert torch.equal(Matmul().linear_backward(dy_TO, weight_OI), dy_TO @ weight_OI)


def test_a_wide_product_of_many_tokens_is_in_pieces(monkeypatch):
    widths = []
    product = torch.mm
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(matmul, "FEW", 1)
    monkeypatch.setattr(
        torch, "mm", lambda x, w, out: (widths.append(w.shape[1]), product(x, w, out=out))
    )

    Matmul().linear(torch.randn(2, 4), torch.randn(1300, 4))

    assert widths == [512, 512, 276]


def test_of_few_tokens_each_thread_has_outputs_of_its_own(monkeypatch):
    shapes = []
    batched = torch.bmm
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(
        torch, "bmm", lambda x, w: (shapes.append(tuple(w.shape)), batched(x, w))[1]
    )

    Matmul().linear(torch.randn(3, 4), torch.randn(20, 4))
    Matmul().linear_backward(torch.randn(3, 20), torch.randn(20, 4))
    Matmul().linear(torch.randn(matmul.FEW + 1, 4), torch.randn(20, 4))

    assert shapes == [(2, 4, 10), (2, 20, 2)]
