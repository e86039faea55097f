"""How a request says that it was sent before, and which keys are being answered right now."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Annotated

from fastapi import Depends, Header

from adapters.errors import IdempotencyInProgress, InvalidValue

_LONGEST_KEY = 255
#: A first request is seldom busy for longer with what is not reading its body.
_COME_BACK_S = 1
_COUNT = re.compile("[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class Repetition:
    """What a request says of whether it has been sent before."""

    #: The client's `Idempotency-Key`.
    key: str | None = None
    #: OpenAI's SDK sends no key, but counts its tries; None where the client does not count.
    tries_before: int | None = None

    @property
    def told_by_count(self) -> bool:
        """Whether only the count says that it has."""
        return self.key is None and bool(self.tries_before)


async def _repetition(
    idempotency_key: Annotated[str | None, Header()] = None,
    x_idempotency_key: Annotated[str | None, Header()] = None,
    x_stainless_retry_count: Annotated[str | None, Header()] = None,
) -> Repetition:
    key = idempotency_key or x_idempotency_key or None
    if key is not None and len(key) > _LONGEST_KEY:
        raise InvalidValue(
            f"An Idempotency-Key has at most {_LONGEST_KEY} characters.", param="Idempotency-Key"
        )
    counted = _COUNT.fullmatch(x_stainless_retry_count or "")
    return Repetition(key=key, tries_before=int(counted[0]) if counted else None)


#: For routes: what the headers say.
Repeated = Annotated[Repetition, Depends(_repetition)]


class Answering:
    """The keys whose first request is being answered.

    In memory, so that they end with the process, as the requests do. Between two processes the primary key of stored
    replies lets only one through.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._keys: set[str] = set()

    @contextmanager
    def alone(self, key: str | None) -> Iterator[None]:
        """Inside, nobody else answers this key; None is no key.

        Raises:
            IdempotencyInProgress: somebody does already.
        """
        if key is None:
            yield
            return
        with self._lock:
            if key in self._keys:
                raise IdempotencyInProgress(
                    "The first request with this Idempotency-Key is still being answered. Send it again in a moment.",
                    retry_after=_COME_BACK_S,
                )
            self._keys.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard(key)
