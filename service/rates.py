"""How many requests and tokens of inference a tenant may ask for in a minute.

Buckets in this process's memory: with several service processes a tenant may ask each of them for so much. A database
in between would cost every request a round trip, for a bound that need not be exact.

What a request costs in tokens is known when it has been answered. So it is let in by an estimate, which is taken at
once, and settled by what the engine says; a bucket may be overdrawn by what nobody foresaw.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from adapters.errors import Overloaded
from adapters.settings import Quota

_MINUTE_S: Final = 60.0
#: Of English text, about. Other text has fewer, and is settled afterwards.
_BYTES_PER_TOKEN: Final = 4
_OUTPUT: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
#: Outcomes for which nobody has computed anything, unless there are tokens to show.
_FOR_NOTHING: Final = frozenset({"overloaded", "engine_error", "client_error"})


class Foreseen(NamedTuple):
    """What a request will cost in tokens, by the look of it: of its prompt, and at most generated if it says."""

    prompt: int
    output: int


def foresee(body: Mapping[str, Any], size: int) -> Foreseen:
    """What a request with a body of that many bytes will cost. An answer of any length counts once it is there."""
    output, choices = 0, body.get("n")
    for name in _OUTPUT:
        said = body.get(name)
        if isinstance(said, int) and said > output:
            output = said
    if isinstance(choices, int) and choices > 1:
        output *= choices
    return Foreseen(size // _BYTES_PER_TOKEN, output)


@dataclass(frozen=True, slots=True)
class Rate:
    """How much is left of what may be asked for in a minute; `reset` is in seconds, until all of it is there again."""

    limit: int
    remaining: int
    reset: float


class Bucket:
    """Holds what may be asked for in a minute, and fills in a minute."""

    __slots__ = ("_at", "_level", "_names", "_pace", "limit")

    def __init__(self, what: str, limit: int, now: float) -> None:
        self.limit = limit
        self._names = tuple(f"x-ratelimit-{one}-{what}" for one in ("limit", "remaining", "reset"))
        self._pace = limit / _MINUTE_S
        self._level, self._at = float(limit), now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken. What is more than it holds has to wait until it is full."""
        missing = min(amount, self.limit) - self._filled(now)
        return missing / self._pace if missing > 0 else 0.0

    def take(self, amount: float) -> None:
        """Take so much, or with a minus give it back."""
        self._level -= amount

    def rate(self, now: float) -> Rate:
        """How full it is."""
        level = self._filled(now)
        return Rate(self.limit, max(0, int(level)), (self.limit - level) / self._pace)

    def tell(self, headers: dict[str, str], now: float) -> None:
        """The same as OpenAI says it to its clients. Every answer's cost, so without a `rate` in between."""
        level = self._filled(now)
        limit, remaining, reset = self._names
        headers[limit] = str(self.limit)
        headers[remaining] = str(int(level)) if level > 0 else "0"
        headers[reset] = f"{(self.limit - level) / self._pace:.3f}s"

    def _filled(self, now: float) -> float:
        self._level = min(float(self.limit), self._level + (now - self._at) * self._pace)
        self._at = now
        return self._level


class Rates:
    """One tenant's buckets, in this process."""

    def __init__(self, quota: Quota, *, clock: Callable[[], float] = time.monotonic) -> None:
        now = clock()
        self._clock = clock
        bounds = {"requests": quota.requests_per_minute, "tokens": quota.tokens_per_minute}
        self._buckets = {what: Bucket(what, most, now) for what, most in bounds.items() if most}
        self._requests, self._tokens = self._buckets.get("requests"), self._buckets.get("tokens")

    def admit(self, foreseen: Foreseen) -> None:
        """Take what a request is likely to cost, of everything or of nothing.

        Raises:
            Overloaded: there is not enough; says when there will be.
        """
        if not self._buckets:
            return
        now, tokens = self._clock(), foreseen.prompt + foreseen.output
        if self._requests is not None and (wait := self._requests.wait(1, now)):
            raise _refusal(self._requests, "requests", 1, wait)
        if self._tokens is not None and tokens and (wait := self._tokens.wait(tokens, now)):
            raise _refusal(self._tokens, "tokens", tokens, wait)
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def settle(self, foreseen: Foreseen, outcome: str, prompt: int, completion: int) -> None:
        """Put right what was taken, by what the request has come to in tokens.

        A prompt of which nobody has said how long it was counts as it was foreseen.
        """
        if self._tokens is None:
            return
        if outcome not in _FOR_NOTHING or completion:
            prompt = prompt or foreseen.prompt
        self._tokens.take(prompt + completion - foreseen.prompt - foreseen.output)

    def look(self) -> dict[str, Rate]:
        """What is left of what is bounded, by `requests` and `tokens`."""
        now = self._clock()
        return {what: bucket.rate(now) for what, bucket in self._buckets.items()}

    def headers(self) -> dict[str, str]:
        """The same as OpenAI says it to its clients."""
        told: dict[str, str] = {}
        if self._buckets:
            now = self._clock()
            for bucket in self._buckets.values():
                bucket.tell(told, now)
        return told


def _refusal(bucket: Bucket, what: str, amount: int, wait: float) -> Overloaded:
    return Overloaded(
        f"Rate limit reached: you may ask for {bucket.limit:,} {what} per minute, and this needs {amount:,}. "
        f"Try again in {wait:.1f} s.",
        retry_after=wait,
    )
