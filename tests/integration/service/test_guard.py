"""What vLLM takes for a loop is what we say that it is. Its own function, read from its source: no torch is loaded."""

import ast
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from service.defaults import GUARD
from tests.support.loops import loops

FUNCTIONS = {"_has_repeating_pattern", "check_sequence_repetition"}
Check = Callable[[Sequence[int], object], bool]


@pytest.fixture(scope="module")
def vllms() -> Check:
    package = find_spec("vllm")
    assert package is not None, "vLLM is not installed; run `make install`"
    source = Path(package.submodule_search_locations[0]) / "v1" / "core" / "sched" / "utils.py"
    tree = ast.parse(source.read_text())
    tree.body = [one for one in tree.body if getattr(one, "name", None) in FUNCTIONS]
    assert len(tree.body) == len(FUNCTIONS)
    names: dict[str, object] = {"Sequence": Sequence, "RepetitionDetectionParams": object}
    exec(compile(tree, str(source), "exec"), names)
    return names["check_sequence_repetition"]


@settings(max_examples=300, deadline=None)
@given(
    said=st.lists(st.integers(0, 2), max_size=80),
    pattern=st.lists(st.integers(0, 2), min_size=1, max_size=70),
    times=st.integers(0, 6),
    more=st.lists(st.integers(0, 2), max_size=3),
)
def test_vllm_stops_where_the_guard_says(
    vllms: Check, said: list[int], pattern: list[int], times: int, more: list[int]
) -> None:
    text = [*said, *pattern * times, *more]
    assert vllms(text, SimpleNamespace(**GUARD)) == loops(text, **GUARD)
