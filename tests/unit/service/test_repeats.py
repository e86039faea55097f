"""A key is answered by one request at a time, and never for longer than that request takes."""

import json

import pytest

from adapters.errors import IdempotencyInProgress
from service.repeats import Answering
from tests.support.in_process import answering


def test_a_key_that_is_being_answered_is_refused_with_the_time_to_come_back() -> None:
    keys = Answering()
    with (
        keys.alone("files:k"),
        keys.alone("jobs:k"),
        pytest.raises(IdempotencyInProgress) as refused,
        keys.alone("files:k"),
    ):
        pass
    assert (refused.value.status, refused.value.retry, refused.value.retry_after) == (409, True, 1)


def test_a_key_is_free_again_when_its_request_has_ended_however_it_ended() -> None:
    keys = Answering()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), keys.alone("k"):
            raise ZeroDivisionError
    with keys.alone("k"):
        pass


def test_requests_without_a_key_do_not_meet() -> None:
    keys = Answering()
    with keys.alone(None), keys.alone(None):
        pass


def test_a_key_may_come_in_either_header_and_has_a_longest(tmp_path) -> None:
    begun = {"bytes": 9, "filename": "f", "mime_type": "text/jsonl", "purpose": "batch"}
    with answering(tmp_path) as http:

        def send(**headers: str):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return http.post("/v1/uploads", content=json.dumps(begun), headers=named)

        one, other = send(Idempotency_Key="k" * 255), send(X_Idempotency_Key="k" * 255)
        assert one.json() == other.json()
        assert other.headers["idempotent-replayed"] == "true"
        refused = send(Idempotency_Key="k" * 256)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")
