import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from tests.support.in_process import answering


def asked(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """What FastAPI calls for a request: the route's own function, and all that it depends on."""
    assert dependant.call is not None
    yield dependant.call
    for inner in dependant.dependencies:
        yield from asked(inner)


def is_asked_in_a_thread(call: Callable[..., Any]) -> bool:
    return not (inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call))


def test_no_request_waits_for_a_thread_where_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    with answering(tmp_path) as http:
        routes = [route for route in http.app.routes if isinstance(route, APIRoute)]
    assert len(routes) > 50
    assert {
        f"{route.path}: {call.__qualname__}"
        for route in routes
        for call in asked(route.dependant)
        if is_asked_in_a_thread(call)
    } == set()
