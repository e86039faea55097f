import json
import logging
import subprocess
import sys
import threading

import pytest

from adapters import logs
from adapters.errors import InvalidValue
from adapters.settings import TelemetrySettings
from adapters.traces import NOTHING, Tracer, current, open_tracer, place_of_job, trace_id_of_job


def test_without_an_endpoint_nothing_is_traced_and_nothing_imported():
    code = (
        "import sys, service.__main__, trainer.__main__, service.engine.__main__\n"
        "from adapters.traces import open_tracer\n"
        "from adapters.settings import TelemetrySettings\n"
        "assert not open_tracer(TelemetrySettings(), 'x').on\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_tells_nobody_can_be_asked_for_everything():
    tracer = Tracer()
    with tracer.begin("a", caller={"traceparent": "nonsense"}) as span:
        assert span is current() is span.begin("b") is NOTHING
        span.note({"x": 1})
        span.event("y")
        span.link(place_of_job("ftjob-1"))
        span.fail("z")
    assert (span.headers, span.trace_id) == ({}, "")
    with pytest.raises(ZeroDivisionError), tracer.begin_at(place_of_job("j"), "a"):
        raise ZeroDivisionError
    tracer.tell(place_of_job("j"), "a", {}, since=0.0)
    tracer.close()


def test_every_process_knows_where_a_job_stands():
    assert place_of_job("ftjob-1") == place_of_job("ftjob-1") != place_of_job("ftjob-2")
    assert int(trace_id_of_job("ftjob-1"), 16) == place_of_job("ftjob-1").trace_id
    assert len(trace_id_of_job("ftjob-1")) == 32


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({}, ""),
        ({"otlp_endpoint": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"otlp_endpoint": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
        ({"otlp_endpoint": "http://c:4318/v1/traces"}, "http://c:4318/v1/traces"),
        ({"otel_exporter_otlp_endpoint": "http://d:4318"}, "http://d:4318/v1/traces"),
        (
            {"otlp_endpoint": "http://c", "otel_exporter_otlp_endpoint": "http://d"},
            "http://c/v1/traces",
        ),
    ],
)
def test_where_traces_go(given, endpoint):
    settings = TelemetrySettings(**given)
    assert settings.traces_endpoint == endpoint
    assert settings.on == bool(endpoint)


def test_the_usual_variables_are_read(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=b%3D, c=d")
    assert TelemetrySettings().headers == {"a": "b=", "c": "d"}
    assert "b%3D" not in repr(TelemetrySettings())
    assert TelemetrySettings().on
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not TelemetrySettings().on


@pytest.mark.parametrize("bad", [{"otlp_endpoint": "c:4317"}, {"sample_ratio": 1.5}])
def test_what_cannot_be_meant_is_refused(bad):
    with pytest.raises(InvalidValue):
        TelemetrySettings(**bad)


def test_lines_about_a_job_have_its_trace_where_jobs_are_traced():
    def line(*, traced: bool) -> dict[str, str]:
        record = logging.makeLogRecord({"msg": "claimed ftjob-abc, attempt 1"})
        return json.loads(logs.JsonFormatter(traced=traced).format(record))

    assert line(traced=True)["trace_id"] == trace_id_of_job("ftjob-abc")
    assert "trace_id" not in line(traced=False)
    with logs.about(request_id="r"):
        logs.note(trace_id="f" * 32)
        assert line(traced=True)["trace_id"] == "f" * 32


def test_a_tracer_that_is_on_is_another(monkeypatch):
    tracer = open_tracer(TelemetrySettings(otlp_endpoint="http://127.0.0.1:9"), "x")
    assert tracer.on
    tracer.close()


def test_what_has_ended_tries_a_dead_collector_no_more():
    before = set(threading.enumerate())
    tracer = open_tracer(TelemetrySettings(otlp_endpoint="http://127.0.0.1:9"), "x")
    (sender,) = set(threading.enumerate()) - before
    # Eight deliveries, each tried for seconds.
    for _ in range(2000):
        tracer.begin("a").end()
    tracer.close()
    sender.join(10)
    assert not sender.is_alive()
