import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from service.metrics import Metrics
from service.tallies import OTHER, AdapterTallies, Ending


def ask(tallies: AdapterTallies, adapter: str, times: int = 1, tokens: int = 1) -> None:
    for _ in range(times):
        tallies.of(adapter).note(Ending("ok", seconds=0.3, completion_tokens=tokens))


def values(tallies: AdapterTallies, name: str) -> dict[str, float]:
    """Sums by adapter of all samples of that name."""
    found: dict[str, float] = {}
    for metric in tallies.collect():
        for sample in metric.samples:
            if sample.name == name:
                adapter = sample.labels["adapter"]
                found[adapter] = found.get(adapter, 0) + sample.value
    return found


def test_ten_thousand_names_make_a_bounded_number_of_label_values() -> None:
    tallies = AdapterTallies(20)
    for number in range(10_000):
        ask(tallies, f"bot-{number}")
    requests = values(tallies, "graft_adapter_requests_total")
    assert len(requests) == 21
    assert sum(requests.values()) == 10_000


def test_those_that_are_used_most_have_series_of_their_own() -> None:
    tallies = AdapterTallies(2)
    for name in ("early-1", "early-2"):
        ask(tallies, name)
    for _ in range(50):
        ask(tallies, "busy-1")
        ask(tallies, "busy-2")
        ask(tallies, "rare")
        ask(tallies, "busy-1")
        ask(tallies, "busy-2")
    assert {"busy-1", "busy-2", OTHER} == set(values(tallies, "graft_adapter_requests_total"))


@given(st.lists(st.sampled_from("abcdefgh"), max_size=300), st.integers(0, 3))
def test_nothing_is_lost_when_adapters_change_places_and_other_only_grows(asked, most):
    tallies = AdapterTallies(most)
    other = 0.0
    for name in asked:
        ask(tallies, name)
        now = values(tallies, "graft_adapter_tokens_total")
        assert now[OTHER] >= other
        other = now[OTHER]
    for name in (
        "graft_adapter_requests_total",
        "graft_adapter_tokens_total",
        "graft_adapter_request_duration_seconds_count",
    ):
        assert sum(values(tallies, name).values()) == len(asked)


def test_how_long_it_takes_is_told_as_a_count_and_a_sum() -> None:
    registry = CollectorRegistry()
    tallies = AdapterTallies(5)
    registry.register(tallies)
    for seconds in (0.25, 500.0):
        tallies.of("bot").note(Ending("ok", seconds=seconds, first_token_seconds=seconds / 2))
    text = generate_latest(registry).decode()
    assert 'graft_adapter_request_duration_seconds_count{adapter="bot"} 2.0' in text
    assert 'graft_adapter_request_duration_seconds_sum{adapter="bot"} 500.25' in text
    assert 'graft_adapter_time_to_first_token_seconds_sum{adapter="bot"} 250.125' in text


def test_a_deleted_adapter_has_no_series_and_what_it_was_asked_counts_on() -> None:
    tallies = AdapterTallies(5)
    ask(tallies, "bot", times=3)
    ask(tallies, "other-bot")
    tallies.forget("bot")
    tallies.forget("nobody")
    assert values(tallies, "graft_adapter_requests_total") == {"other-bot": 1, OTHER: 3}
    ask(tallies, "bot")
    assert values(tallies, "graft_adapter_requests_total")["bot"] == 1


@pytest.mark.parametrize("most", [0, 7])
def test_how_many_is_a_setting(most: int) -> None:
    metrics = Metrics(max_adapter_labels=most)
    for number in range(100):
        ask(metrics.by_adapter, f"bot-{number}")
    assert len(values(metrics.by_adapter, "graft_adapter_requests_total")) == most + 1
