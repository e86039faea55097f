from collections import Counter as Tally

from hypothesis import given, strategies as st
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.http import HttpMetrics
from service.metrics.registry import COARSE_S, Registry
from service.metrics.text import as_text


def samples(text: bytes) -> list[tuple[str, str, str, frozenset[tuple[str, str]], str]]:
    """Of every family; values as text, since NaN is not equal to itself."""
    return [
        (family.name, family.type, sample.name, frozenset(sample.labels.items()), str(sample.value))
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]


@given(
    values=st.lists(st.floats(), min_size=1, max_size=4),
    label=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12),
    about=st.text(st.sampled_from('ab \\\n"'), max_size=8),
)
def test_it_says_what_prometheus_client_says(values, label, about):
    registry = Registry()
    counter = Counter("graft_c", "Counts." + about, ["of"], registry=registry)
    gauge = Gauge("graft_g", "Is.", registry=registry)
    histogram = Histogram("graft_h", "Lies.", ["of", "at"], buckets=(1, 2.5), registry=registry)
    for value in values:
        counter.labels(label).inc(abs(value))
        gauge.set(value)
        histogram.labels(label, "x").observe(value)
    assert samples(as_text(registry.collect())) == samples(generate_latest(registry))


@given(
    asked=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8),
            st.sampled_from(["GET", "POST"]),
            st.sampled_from([200, 404, 503]),
            st.sampled_from([0.0, 0.01, 0.010001, 4.9, 120.0, 1e4]) | st.floats(0, 200),
        ),
        max_size=30,
    )
)
def test_what_is_written_without_prometheus_client_is_what_it_would_write(asked):
    ours, its = Registry(), Registry()
    http = HttpMetrics(ours)
    labels = ["route", "method"]
    requests = Counter(
        "graft_http_requests",
        "Requests by route template, method and status.",
        [*labels, "status"],
        registry=its,
    )
    seconds = Histogram(
        "graft_http_request_duration_seconds",
        "Seconds until the last byte of the response.",
        labels,
        buckets=COARSE_S,
        registry=its,
    )
    for number, (route, method, status, took) in enumerate(asked):
        http.note(route, method, status, took)
        requests.labels(route, method, str(status)).inc()
        seconds.labels(route, method).observe(took)
        if number % 7 == 0:
            ours.as_text()  # what is kept of it must not be in the way of what comes
    said = Tally(samples(generate_latest(its)))
    assert Tally(samples(ours.as_text())) == said
    assert Tally(samples(generate_latest(ours))) == said
