"""One request, told by the service and by vLLM itself, in one trace."""

import time
from collections.abc import Callable

from tests.e2e.conftest import BASE, Stack, question_body
from tests.support.collector import Collector, Told

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
#: vLLM sends what it has every five seconds.
PATIENCE_S = 30.0


def test_what_vllm_tells_of_a_request_belongs_to_what_the_service_tells_of_it(
    stack: Stack, collector: Collector
) -> None:
    stack.ask(BASE, "What is the capital of France?")  # by a caller who wants nothing told
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    body = question_body(BASE, "What is the capital of Italy?", stream=True)
    with stack.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200
        response.read()
    engines = told_by(collector, lambda span: span.service == "graft-engine")
    asked = told_by(collector, lambda span: span.name == "POST /v1/chat/completions")
    passed_on = told_by(collector, lambda span: span.name == f"chat {BASE}")
    assert {span.trace_id for span in (asked, passed_on, engines)} == {TRACE}
    assert asked.parent_id == CALLER
    assert passed_on.parent_id in {span.span_id for span in collector.spans}
    assert engines.parent_id == passed_on.span_id
    assert engines.about["gen_ai.usage.completion_tokens"] > 0
    assert passed_on.start <= engines.start <= engines.end <= passed_on.end


def told_by(collector: Collector, wanted: Callable[[Told], bool]) -> Told:
    """The one span that is meant, once it has come."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := [span for span in collector.spans if wanted(span)]):
        assert time.monotonic() < deadline, sorted(span.name for span in collector.spans)
        time.sleep(0.1)
    (span,) = found
    return span
