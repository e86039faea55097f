"""What the benchmarks with a real engine read of streams and logs. Here, since the stage loads torch."""

import json

import pytest

from bench.real_stage import Streamed, loads_in, probes_in

LOG = """\
2026-11-28 17:00:01,000 INFO service.residency: loaded a@1 in 30 ms
2026-11-28 17:00:01,500 INFO service.prover: a@1 is verified: Within 0.001 nats of training
2026-11-28 17:00:02,000 INFO service.residency: loaded b@1 in 41 ms
2026-11-28 17:00:03,250 INFO service.prover: b@1 is verified: Within 0.001 nats of training
2026-11-28 17:00:09,000 INFO service.residency: loaded a@1 in 29 ms
2026-11-28 17:00:09,100 INFO graft.access: POST /v1/completions 200 120 ms req_1
"""


def event(**told: object) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def streamed(*events: bytes) -> Streamed:
    return Streamed(10.0, (10.5, 10.6, 11.6), b"".join(events))


def test_a_stream_is_read_when_it_is_over():
    said = streamed(
        event(choices=[{"text": "a b"}]),
        event(choices=[{"text": " c"}]),
        event(choices=[], usage={"completion_tokens": 2}),
        b"data: [DONE]\n\n",
    )
    assert said.text == "a b c"
    assert said.tokens == 2
    assert said.first == pytest.approx(0.5)
    assert said.gaps == pytest.approx([0.1, 1.0])


def test_a_stream_that_was_cut_short_is_no_measurement():
    with pytest.raises(AssertionError):
        _ = streamed(event(choices=[{"text": "a"}])).text


def test_the_log_says_what_was_loaded_and_how_long_comparisons_took_after_the_first_load():
    assert loads_in(LOG) == [("a@1", 30), ("b@1", 41), ("a@1", 29)]
    assert probes_in(LOG) == pytest.approx([500, 1250])
