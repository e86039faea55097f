"""How many requests and tokens of inference a tenant may ask for in a minute.

Buckets in this process's memory: with several service processes a tenant may ask each of them for so much. A database
in between would cost every request a round trip, for a bound that need not be exact.

What a request costs in tokens is known when it has been answered. So it is let in by an estimate, which is taken at
once, and settled by what the engine says; a bucket may be overdrawn by what nobody foresaw.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.errors import Overloaded
from adapters.settings import Quota

_MINUTE_S: Final = 60.0
#: Of English text, about. Other text has fewer, and is settled afterwards.
_BYTES_PER_TOKEN: Final = 4
_OUTPUT: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
#: Outcomes for which nobody has computed anything, unless there are tokens to show.
_FOR_NOTHING: Final = frozenset({"overloaded", "engine_error", "client_error"})


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a request will cost in tokens, by the look of it: of its prompt, and at most generated if it says."""

    prompt: int
    output: int


def foresee(body: Mapping[str, Any], size: int) -> Foreseen:
    """What a request with a body of that many bytes will cost. An answer of any length counts once it is there."""
    choices, said = body.get("n"), [body.get(name) for name in _OUTPUT]
    output = max((one for one in said if isinstance(one, int)), default=0)
    times = choices if isinstance(choices, int) and choices > 1 else 1
    return Foreseen(size // _BYTES_PER_TOKEN, max(0, output) * times)


@dataclass(frozen=True, slots=True)
class Rate:
    """How much is left of what may be asked for in a minute; `reset` is in seconds, until all of it is there again."""

    limit: int
    remaining: int
    reset: float


class Bucket:
    """Holds what may be asked for in a minute, and fills in a minute."""

    __slots__ = ("_at", "_level", "_pace", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
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
        self._buckets = {what: Bucket(most, now) for what, most in bounds.items() if most}
        self._requests, self._tokens = self._buckets.get("requests"), self._buckets.get("tokens")

    def admit(self, foreseen: Foreseen) -> None:
        """Take what a request is likely to cost, of everything or of nothing.

        Raises:
            Overloaded: there is not enough; says when there will be.
        """
        if not self._buckets:
            return
        now, tokens = self._clock(), foreseen.prompt + foreseen.output
        self._refuse_if_empty("requests", 1, now)
        if tokens:
            self._refuse_if_empty("tokens", tokens, now)
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
        for what, rate in self.look().items():
            told[f"x-ratelimit-limit-{what}"] = str(rate.limit)
            told[f"x-ratelimit-remaining-{what}"] = str(rate.remaining)
            told[f"x-ratelimit-reset-{what}"] = f"{rate.reset:.3f}s"
        return told

    def _refuse_if_empty(self, what: str, amount: int, now: float) -> None:
        bucket = self._buckets.get(what)
        wait = bucket.wait(amount, now) if bucket is not None else 0.0
        if bucket is None or not wait:
            return
        raise Overloaded(
            f"Rate limit reached: you may ask for {bucket.limit:,} {what} per minute, and this needs {amount:,}. "
            f"Try again in {wait:.1f} s.",
            retry_after=wait,
        )
