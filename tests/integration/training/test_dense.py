"""The kernel for frozen weights: its numbers are torch's, whatever the sizes, the threads and the processor."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from torch.nn.functional import linear as one_call

from trainer.warm.matmul import Matmul

#: Tokens on both sides of where many begin, and of one piece of them; inputs and outputs of one piece and of several.
SIZES = st.tuples(
    st.integers(1, 70) | st.sampled_from([256, 257]),
    st.integers(1, 80) | st.sampled_from([256, 768, 801]),
    st.integers(1, 80) | st.sampled_from([256, 300]),
)


@pytest.fixture(params=[1, 2, 3, 64], ids="{} threads".format)
def threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


def drawn(sizes, dtype):
    """x, W and dy, each a part of something larger."""
    tokens, inputs, outputs = sizes
    generator = torch.Generator().manual_seed(tokens)
    shapes = (tokens, inputs), (outputs, inputs), (tokens, outputs)
    return [
        torch.randn(high, wide + 3, generator=generator, dtype=dtype)[:, 1:-2]
        for high, wide in shapes
    ]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-4), (torch.float64, 1e-12)])
@given(sizes=SIZES)
@example(sizes=(1, 1, 1))
@example(sizes=(40, 768, 48))
@example(sizes=(41, 769, 49))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_products_of_any_size_come_to_what_torch_makes_of_them(dense, dtype, bound, sizes):
    x_TI, weight_OI, dy_TO = drawn(sizes, dtype)
    y_TO, dx_TI = dense.linear(x_TI, weight_OI), dense.linear_backward(dy_TO, weight_OI)
    torch.testing.assert_close(y_TO, one_call(x_TI, weight_OI), rtol=0, atol=bound)
    torch.testing.assert_close(dx_TI, dy_TO @ weight_OI, rtol=0, atol=bound)


@pytest.mark.parametrize("tokens", [5, 90])
def test_threads_do_not_change_a_bit(dense, tokens, threads):
    x_TI, weight_OI, dy_TO = drawn((tokens, 150, 201), torch.float32)
    with pytest.MonkeyPatch.context() as alone:
        alone.setattr(torch, "get_num_threads", lambda: 1)
        expected = dense.linear(x_TI, weight_OI), dense.linear_backward(dy_TO, weight_OI)
    for _ in range(5):
        assert torch.equal(dense.linear(x_TI, weight_OI), expected[0])
        assert torch.equal(dense.linear_backward(dy_TO, weight_OI), expected[1])


@pytest.mark.parametrize("tokens", [5, 90])
def test_a_tokens_numbers_are_its_own(dense, tokens):
    x_TI, weight_OI, dy_TO = drawn((tokens, 150, 201), torch.float32)
    expected = dense.linear(x_TI, weight_OI), dense.linear_backward(dy_TO, weight_OI)
    x_TI[2], dy_TO[2] = torch.nan, torch.nan
    found = dense.linear(x_TI, weight_OI), dense.linear_backward(dy_TO, weight_OI)
    for one, other in zip(found, expected, strict=True):
        assert one[2].isnan().all()
        others = torch.arange(tokens) != 2
        assert torch.equal(one[others], other[others])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-4), (torch.float64, 1e-12)])
def test_processors_with_shorter_vectors_compute_the_same(shorter, dtype, bound):
    _, dense = shorter
    assert not dense.pays, "nobody has measured it"
    for tokens in (7, 90):
        x_TI, weight_OI, dy_TO = drawn((tokens, 803, 101), dtype)
        y_TO, dx_TI = dense.linear(x_TI, weight_OI), dense.linear_backward(dy_TO, weight_OI)
        torch.testing.assert_close(y_TO, one_call(x_TI, weight_OI), rtol=0, atol=bound)
        torch.testing.assert_close(dx_TI, dy_TO @ weight_OI, rtol=0, atol=bound)


class Counting:
    """Computes as torch does, and counts."""

    def __init__(self):
        self.calls = 0

    def linear(self, x_TI, weight_OI):  # noqa: N803  shapes
        self.calls += 1
        return one_call(x_TI, weight_OI)

    def linear_backward(self, dy_TO, weight_OI):  # noqa: N803  shapes
        self.calls += 1
        return dy_TO @ weight_OI


@pytest.mark.parametrize("tokens", [3, 300])
def test_what_it_can_compute_is_left_to_it(tokens):
    kernel = Counting()
    matmul = Matmul(kernel)
    x_TI, weight_OI, dy_TO = drawn((tokens, 6, 5), torch.float32)
    bias_O = torch.randn(5)
    y_TO = matmul.linear(x_TI, weight_OI, bias_O)
    torch.testing.assert_close(y_TO, one_call(x_TI, weight_OI, bias_O))
    torch.testing.assert_close(matmul.linear_backward(dy_TO, weight_OI), dy_TO @ weight_OI)
    assert kernel.calls == 2


def test_what_it_cannot_compute_is_torchs():
    kernel = Counting()
    matmul = Matmul(kernel)
    x_TI, weight_OI, dy_TO = drawn((3, 6, 5), torch.float32)
    for turned in (x_TI.t().contiguous().t(), x_TI.bfloat16()):
        given = weight_OI.to(turned.dtype)
        torch.testing.assert_close(matmul.linear(turned, given), one_call(turned, given))
    turned = weight_OI.t().contiguous().t()
    torch.testing.assert_close(matmul.linear_backward(dy_TO, turned), dy_TO @ turned)
    assert kernel.calls == 0
