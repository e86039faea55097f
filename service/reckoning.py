"""What metrics and traces are told of one request to a model: when its answer began, how it ended, what it came to."""

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from adapters.errors import GraftError, ModelNotFound
from adapters.traces import NOTHING, current
from service.metrics import Metrics
from service.tallies import Ending


class Reckoning:
    """One request. It ends once: what is said of its end after that is not counted."""

    def __init__(self, metrics: Metrics, base_model: str, kind: str, adapter: str) -> None:
        """`kind` is `base`, `adapter` or `shadow`; `adapter` the name of the base model, where that is asked itself."""
        self._labels = (base_model, kind)
        self._metrics = metrics
        # Nobody has asked for what a shadow says.
        self._adapter = None if kind == "shadow" else adapter
        self._started = time.monotonic()
        self._first_token_seconds: float | None = None
        self._has_ended = False
        #: What the engine does for it, as far as that is traced.
        self._span = NOTHING
        #: Told the outcome, and the tokens of the prompt and of the answer.
        self.settle: Callable[[str, int, int], None] | None = None

    def asks(self, operation: str, model: str) -> Mapping[str, str]:
        """The engine is asked, for the first time or once more. The headers that are to go with it."""
        around = current()
        if not around.told:
            return NOTHING.headers
        self._close_span("asked_again")
        base_model, kind = self._labels
        about = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": model,
            "graft.base_model": base_model,
            "graft.kind": kind,
        }
        self._span = around.begin(f"{operation} {model}", about, kind="client")
        return self._span.headers

    def began(self) -> None:
        """The first event of a stream is here."""
        self._first_token_seconds = time.monotonic() - self._started
        self._span.event("gen_ai.first_token", {"graft.seconds": self._first_token_seconds})

    def looped(self) -> None:
        """A choice has been ended by the repetition guard."""
        self._metrics.answers.repetition_stops.labels(self._labels[0]).inc()

    def ended(self, outcome: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Whether it went well, was refused, failed or was left, as `graft_completions_total` names it."""
        if self._has_ended:
            return
        self._has_ended = True
        self._close_span("" if outcome == "ok" else outcome, prompt_tokens, completion_tokens)
        if self.settle is not None:
            self.settle(outcome, prompt_tokens, completion_tokens)
        ending = Ending(
            outcome,
            seconds=time.monotonic() - self._started,
            first_token_seconds=self._first_token_seconds,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )
        self._metrics.answers.note(*self._labels, ending)
        if self._adapter is not None:
            # Looked up only now: the adapters that have a tally of their own may have changed meanwhile.
            self._metrics.by_adapter.of(self._adapter).note(ending)

    def _close_span(self, failed: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        span, self._span = self._span, NOTHING
        if span is NOTHING:
            return
        span.note(
            {
                "gen_ai.usage.input_tokens": prompt_tokens,
                "gen_ai.usage.output_tokens": completion_tokens,
            }
        )
        if failed:
            span.fail(failed)
        span.end()


def outcome_of_status(status: int) -> str:
    """What an answer of the engine with that HTTP status is counted as."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "engine_error"
    return "client_error" if status >= HTTPStatus.BAD_REQUEST else "ok"


def outcome_of_error(error: BaseException) -> str:
    """What a request is counted as that got no answer."""
    if not isinstance(error, GraftError):
        return "cancelled"
    if isinstance(error, ModelNotFound):
        return "client_error"
    return "overloaded" if error.code == "rate_limit_exceeded" else "engine_error"
