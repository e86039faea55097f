from typing import Any

import pytest
from hypothesis import given, strategies as st

from adapters.errors import InvalidValue
from adapters.sampling import PRESETS, Sampling
from service.defaults import GUARD, fill
from service.schemas.endpoints import CHAT, MESSAGES, RESPONSES, TOKENIZE, Endpoint
from service.schemas.sampling import CHAT_FIELDS

NAMES = ["temperature", "top_p", "top_k", "seed"]
layers = st.lists(
    st.dictionaries(st.sampled_from(NAMES), st.none() | st.integers(0, 9)), min_size=1, max_size=4
)


@given(layers=layers)
def test_each_field_is_what_the_first_says_that_names_it(layers: list[dict[str, Any]]) -> None:
    filled = fill(CHAT_FIELDS, *layers)
    for name in NAMES:
        said = [layer[name] for layer in layers if layer.get(name) is not None]
        assert filled.body.get(name) == (said[0] if said else None)
    assert not filled.guarded
    assert None not in filled.body.values()


@given(layers=layers, at=st.integers(0, 3))
def test_a_preset_wins_over_what_comes_after_it_and_over_nothing_else(
    layers: list[dict[str, Any]], at: int
) -> None:
    at %= len(layers)
    layers[at] = layers[at] | {"preset": "anti-repetition"}
    preset = PRESETS["anti-repetition"]
    filled = fill(CHAT_FIELDS, *layers)
    for name in ("temperature", "top_p"):
        said = [one[name] for one in layers[: at + 1] if one.get(name) is not None]
        assert filled.body[name] == (said[0] if said else preset[name])
    assert filled.guarded
    assert filled.body["repetition_detection"] == GUARD


def test_only_the_first_preset_counts() -> None:
    assert fill(
        CHAT_FIELDS, {"preset": "none"}, {"preset": "anti-repetition", "top_k": 3}
    ).body == {"top_k": 3}
    assert fill(CHAT_FIELDS, {}, {"preset": "none"}, {"preset": "anti-repetition"}).body == {}
    assert (
        fill(CHAT_FIELDS, {}, {}, {"preset": "anti-repetition"}).body["repetition_penalty"] == 1.2
    )


def test_numbers_of_ones_own_for_the_guard_are_kept() -> None:
    own = {"max_pattern_size": 8, "min_count": 3}
    filled = fill(CHAT_FIELDS, {"repetition_guard": True, "repetition_detection": own})
    assert (filled.body, filled.guarded) == ({"repetition_detection": own}, True)


def test_nothing_of_ours_reaches_the_engine() -> None:
    filled = fill(
        CHAT_FIELDS, {"preset": "none", "repetition_guard": False, "top_k": 1}, {"preset": "none"}
    )
    assert filled.body == {"top_k": 1}


@pytest.mark.parametrize("request_", [{"preset": "x"}, {"preset": []}, {"repetition_guard": 1}])
def test_a_request_that_names_no_preset_that_there_is_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        fill(CHAT_FIELDS, request_)


def test_every_preset_is_made_of_defaults_that_may_be_set() -> None:
    for values in PRESETS.values():
        assert Sampling.model_validate(values).given == values


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, MESSAGES, TOKENIZE])
def test_defaults_fill_only_what_the_endpoint_knows(endpoint: Endpoint) -> None:
    adapter = {"temperature": 0.1, "stop": ["#"], "max_tokens": 5, "preset": "anti-repetition"}
    filled = fill(endpoint.fields, {"model": "bot"}, adapter)
    known = {name: value for name, value in adapter.items() if name in endpoint.fields - {"preset"}}
    assert known.items() <= filled.body.items()
    assert filled.body.keys() <= endpoint.fields | {"repetition_detection"}
    # Where the engine looks for no loops, nobody is told that it does.
    assert filled.guarded == ("repetition_detection" in filled.body) == (endpoint is CHAT)
