"""Adapters that come and go under traffic, and what every answer is held to: the run of the version it names, alone.

Greedy decoding, byte for byte. Sums of floats depend on what else is in a batch, though, so that where two tokens are
as likely as each other rounding may decide; where that can be, and only there, an answer may go on otherwise. How far
rounding moves a log-probability is watched at every token, and more than `DRIFT` is an error.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.settings import has_nvidia_gpu

PROMPTS = ("Once upon a time there was", "The best way to learn is")
TOKENS = 8
#: Nats. Far above what rounding has been seen to do, far below what tells two adapters apart. On a GPU, in bfloat16,
#: what a probe is allowed.
DRIFT = 0.125 if has_nvidia_gpu() else 0.002
#: Of all requests, those for the base model, and those that name a version by its number.
_FOR_BASE, _BY_NUMBER = 0.1, 0.3
_ASKERS = 6
_PAUSE_S = (0.2, 1.0)


@dataclass(frozen=True)
class Said:
    """An answer: its tokens, what the model thought of each, and how far the second likeliest was behind."""

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]

    def against(self, got: "Said", *, within: float = DRIFT) -> "Likeness":
        """What may be said of an answer that should be this one."""
        farthest = 0.0
        for at, (mine, its) in enumerate(zip(self.tokens, got.tokens, strict=True)):
            drift = abs(self.logprobs[at] - got.logprobs[at])
            if drift > within:
                return Likeness(farthest, flaw=f"token {at} is off by {drift:.4f} nats")
            farthest = max(farthest, drift)
            if mine != its and self.gaps[at] > 2 * within:
                return Likeness(farthest, flaw=f"token {at} is {its!r} and not {mine!r}")
            if mine != its:
                return Likeness(farthest, near_tie=self.gaps[at])
        flaw = None if got.text == self.text else f"the text is {got.text!r} and not {self.text!r}"
        return Likeness(farthest, flaw=flaw)


@dataclass(frozen=True)
class Likeness:
    """How an answer compares with what it should be."""

    #: The farthest that a log-probability is off, in nats.
    drift: float
    #: Two tokens were so near that rounding may decide, and it has: how far apart they were.
    near_tie: float | None = None
    flaw: str | None = None


@dataclass
class Tally:
    """What a churn came to."""

    answers: int = 0
    of_base: int = 0
    streams: int = 0
    #: Answers that went on otherwise after two tokens that were as likely as each other, and how far these were apart.
    near_ties: list[float] = field(default_factory=list)
    #: The farthest that a log-probability was from the run alone, in nats.
    drift: float = 0.0
    promotions: int = 0
    rollbacks: int = 0


@dataclass
class Span:
    """From when on, and until when, a version may have been the live one."""

    version: str
    begin: float
    end: float = math.inf


def request(model: str, prompt: str, **more: Any) -> dict[str, Any]:
    """A greedy request that tells what it thinks of its tokens."""
    asked = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": TOKENS}
    return {**asked, "ignore_eos": True, "logprobs": 2, **more}


def said(choices: Sequence[dict[str, Any]]) -> Said:
    """One answer, from its choice or from all pieces of it."""
    told = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
    return Said(
        "".join(choice["text"] for choice in choices),
        tuple(token for one in told for token in one["tokens"]),
        tuple(p for one in told for p in one["token_logprobs"]),
        tuple(gap(top) for one in told for top in one["top_logprobs"]),
    )


def gap(top: dict[str, float]) -> float:
    """Between the two likeliest; nothing where both are spelt alike, as halves of a character are."""
    first, *others = sorted(top.values(), reverse=True)
    return first - others[0] if others else 0.0


def alone(http: httpx.Client, model: str, prompt: str) -> Said:
    """The answer while nobody else asks anything."""
    response = http.post("/v1/completions", json=request(model, prompt))
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    return said(response.json()["choices"])


class Churn:
    """Requests and moves at random."""

    def __init__(
        self,
        url: str,
        base: str,
        versions: dict[str, list[str]],
        expected: dict[tuple[str, str], Said],
        seed: str,
    ) -> None:
        """`versions` of each adapter in the order of their publication; `expected` by version, or base, and prompt."""
        self._url = url
        self._base = base
        self._versions = versions
        self._expected = expected
        self._seed = seed
        self._names = list(versions)
        self._prompts = sorted({prompt for _, prompt in expected})
        #: Some are asked all the time, most are cold when they are asked.
        self._weights = [1 / (1 + rank) for rank in range(len(versions))]
        self._past = {name: list(own) for name, own in versions.items()}
        self._spans = {name: [Span(own[-1], -math.inf)] for name, own in versions.items()}
        self.tally = Tally()

    async def run(self, seconds: float) -> None:
        """Ask and move; the first answer that is wrong, and the first error, ends it."""
        until = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=300, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(_ASKERS):
                group.create_task(
                    self._ask_until(until, http, random.Random(f"{self._seed}/{number}"))
                )
            group.create_task(self._move_until(until, http, random.Random(f"{self._seed}/moves")))

    async def _ask_until(self, until: float, http: httpx.AsyncClient, dice: random.Random) -> None:
        while time.monotonic() < until:
            model, prompt = self._model(dice), dice.choice(self._prompts)
            await self._ask(http, model, prompt, stream=dice.random() < 0.5)

    def _model(self, dice: random.Random) -> str:
        kind = dice.random()
        if kind < _FOR_BASE:
            return self._base
        [name] = dice.choices(self._names, self._weights)
        return dice.choice(self._versions[name]) if kind < _FOR_BASE + _BY_NUMBER else name

    async def _ask(self, http: httpx.AsyncClient, model: str, prompt: str, *, stream: bool) -> None:
        sent = time.monotonic()
        response = await http.post("/v1/completions", json=request(model, prompt, stream=stream))
        assert response.status_code == 200, f"{model}: {response.text}"
        parts = list(events(response.text)) if stream else [response.json()]
        [answered] = {part["model"] for part in parts}
        assert answered in self._allowed(model, sent), f"{model} was answered by {answered}"
        self._hold(answered, prompt, said([choice for part in parts for choice in part["choices"]]))
        self.tally.answers += 1
        self.tally.streams += stream
        self.tally.of_base += model == self._base

    def _allowed(self, model: str, sent: float) -> set[str]:
        """Who may answer: for a bare name, whoever was live at some moment since the request was sent."""
        spans = self._spans.get(model)
        return {model} if spans is None else {span.version for span in spans if span.end >= sent}

    def _hold(self, version: str, prompt: str, got: Said) -> None:
        """Raise AssertionError unless the answer is what the version says alone."""
        expected = self._expected[version, prompt]
        likeness = expected.against(got)
        assert likeness.flaw is None, (
            f"{version}, {prompt!r}: {likeness.flaw}: {got} and not {expected}"
        )
        self.tally.drift = max(self.tally.drift, likeness.drift)
        if likeness.near_tie is not None:
            self.tally.near_ties.append(likeness.near_tie)

    async def _move_until(self, until: float, http: httpx.AsyncClient, dice: random.Random) -> None:
        while time.monotonic() < until:
            name = dice.choice(self._names)
            past = self._past[name]
            if len(past) > 1 and dice.random() < 0.5:
                await self._move(http, name, "rollback", past[-2], {})
                past.pop()
                self.tally.rollbacks += 1
            else:
                version = dice.choice([one for one in self._versions[name] if one != past[-1]])
                await self._move(
                    http, name, "promote", version, {"version": int(version.partition("@")[2])}
                )
                past.append(version)
                self.tally.promotions += 1
            await asyncio.sleep(dice.uniform(*_PAUSE_S))

    async def _move(
        self, http: httpx.AsyncClient, name: str, how: str, to: str, body: dict[str, int]
    ) -> None:
        spans = self._spans[name]
        spans.append(Span(to, time.monotonic()))
        response = await http.post(f"/adapters/{name}/{how}", json=body)
        assert response.status_code == 200, response.text
        spans[-2].end = time.monotonic()
        answer = await http.get(f"/adapters/{name}")
        assert answer.json()["live"] == to, answer.text


def events(text: str) -> Iterator[dict[str, Any]]:
    """What a stream has sent."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", text[-500:]
    for line in lines[:-1]:
        event = json.loads(line)
        assert "error" not in event, event
        yield event
