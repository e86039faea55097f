from hypothesis import given, strategies as st
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.registry import Registry
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
