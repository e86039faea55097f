"""Models made from shapes, and what is trained on them."""

import pytest

from bench.measure import CannotRun
from bench.shapes import FIXED, SHAPES, gpu_workloads, shape_of


def parameters(shape):
    """Of the layers' matrices, and of the head."""
    kv = shape.hidden_size * shape.num_key_value_heads // shape.num_attention_heads
    attention = shape.hidden_size * (2 * shape.hidden_size + 2 * kv)
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_hidden_layers * (attention + mlp), shape.vocab_size * shape.hidden_size


@pytest.mark.parametrize(("name", "body", "head"), [("1b", 0.973, 0.263), ("8b", 6.98, 0.525)])
def test_shapes_have_the_size_that_they_are_called_by(name, body, head):
    assert [round(size / 1e9, 3) for size in parameters(shape_of(name))] == pytest.approx(
        [body, head], rel=1e-3
    )


def test_an_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(CannotRun, match="'70b'; there are: 1b, 8b, tiny"):
        shape_of("70b")


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_row_has_a_target_and_tokens_that_the_model_knows(name):
    shape = SHAPES[name]
    for workload in [FIXED, *gpu_workloads(shape)]:
        for one in workload.lessons:
            for row in one.rows:
                assert row.targets >= 1
                assert max(row.ids) < shape.vocab_size


def test_the_longest_rows_fit_into_one_micro_batch_where_the_limit_is_asked_for():
    packed = gpu_workloads(SHAPES["8b"])[-1]
    assert packed.name == "4x2048"
    assert packed.tokens <= SHAPES["8b"].token_budget
