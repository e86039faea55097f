"""The tokenizer process, seen from the service: started at first need, kept warm, stopped when idle, restarted."""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from typing import Protocol

from adapters.errors import InvalidDataset, Overloaded, Unavailable
from service.tokens.messages import (
    Count,
    Counted,
    Preview,
    Refused,
    Show,
    decode_answer,
    encode_question,
)

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # A prepared model's directory is complete; a look at the hub would only cost time, or hang without a network.
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
#: Starting takes some seconds, rendering is told how long it may take; a row of a million bytes goes beyond that.
_PATIENCE_S = 60.0
_LONGEST_ANSWER = 1 << 26
_ATTEMPTS = 2
#: Questions that may be open at a time, the one in hand included. Each takes seconds, and holds its data on disk.
_MOST_OPEN = 16
_RETRY_AFTER_S = 5.0


class Tokens(Protocol):
    """Who can say what rows come to in tokens."""

    async def ask(self, question: Count | Show) -> Counted | Preview:
        """The answer.

        Raises:
            InvalidDataset: a row cannot be trained on with this base model.
            Overloaded: too many are asking.
            Unavailable: there is nobody to ask, or no answer in time.
        """

    async def close(self) -> None:
        """Stop."""


class TokenProcess:
    """`python -m service.tokens` at the other end of two pipes. One question at a time, first come, first served."""

    def __init__(
        self,
        *,
        idle_seconds: float,
        patience: float = _PATIENCE_S,
        command: tuple[str, ...] = (sys.executable, "-m", "service.tokens"),
    ) -> None:
        self._idle_seconds, self._patience, self._command = idle_seconds, patience, command
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._retirement: asyncio.TimerHandle | None = None
        self._open = 0

    async def ask(self, question: Count | Show) -> Counted | Preview:
        if self._open >= _MOST_OPEN:
            raise Overloaded(
                f"{self._open} requests wait to be looked at; this one may be sent again.",
                retry_after=_RETRY_AFTER_S,
            )
        self._open += 1
        try:
            async with self._lock:
                line = await self._in_turn(encode_question(question))
        finally:
            self._open -= 1
        answer = await asyncio.to_thread(decode_answer, line)
        if isinstance(answer, Refused):
            raise InvalidDataset(answer.message, param="training_file", details=answer.details)
        return answer

    async def close(self) -> None:
        self._stay()
        await self._end()

    async def _in_turn(self, line: bytes) -> bytes:
        self._stay()
        try:
            return await self._answer(line)
        finally:
            self._retire_later()

    async def _answer(self, line: bytes) -> bytes:
        """One line back. A process that dies is started once more: it may have been killed while nobody asked."""
        try:
            async with asyncio.timeout(self._patience):
                for _ in range(_ATTEMPTS):
                    answer = await self._exchange(line)
                    if answer.endswith(b"\n"):
                        return answer
                    log.warning("the tokenizer process died: %s", await self._end())
        except TimeoutError as error:
            await self._end()
            raise Unavailable(
                f"These rows were not rendered within {self._patience:g} seconds.",
                retry_after=_RETRY_AFTER_S,
            ) from error
        except BaseException:
            # Who asked has gone. The answer would come to whoever asks next.
            await self._end()
            raise
        raise Unavailable(
            "The tokenizer process dies when it is asked. The service's log says more.",
            retry_after=_RETRY_AFTER_S,
        )

    async def _exchange(self, line: bytes) -> bytes:
        process = self._process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            await process.stdin.drain()
            return await process.stdout.readline()
        except ConnectionError:
            return b""

    async def _start(self) -> Process:
        environment = dict(os.environ) | _ENVIRONMENT  # noqa: TID251  handed on, not read
        return await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, limit=_LONGEST_ANSWER, env=environment
        )

    async def _end(self) -> str:
        """Kill it, and say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "it was not there"
        if process.returncode is None:
            try:
                process.kill()
            except ProcessLookupError:
                log.debug("it was gone already")
        code = await process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def _retire_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._retirement = loop.call_later(self._idle_seconds, self._retire)

    def _stay(self) -> None:
        if self._retirement is not None:
            self._retirement.cancel()
            self._retirement = None

    def _retire(self) -> None:
        """End it by closing our end, unless somebody has just come to ask."""
        process, self._retirement = self._process, None
        if process is None or self._lock.locked():
            return
        self._process = None
        assert process.stdin is not None
        process.stdin.close()
        log.info("nobody has asked the tokenizer process for %g seconds", self._idle_seconds)
