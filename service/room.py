"""A look at a tenant's room before a body is read: what cannot be kept need not be sent to its end."""

import asyncio
from typing import Final

from fastapi import Depends, Request

from service.repeats import Repeated
from service.state import State

#: What a form takes beside the bytes that it carries, at most: of so much nobody can tell yet what it is.
_FORM_BYTES: Final = 1 << 20


async def _require_room(request: Request, state: State, repetition: Repeated) -> None:
    """Raises OverQuota. What is looked at for good is looked at where the bytes are recorded.

    A request that may have been answered before is let through: that answer is what it wants, and takes no room.
    """
    if state.ledger.storage.limit is None or repetition.key or repetition.told_by_count:
        return
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    more = max(1, size - _FORM_BYTES)
    await asyncio.to_thread(lambda: state.ledger.storage.require_room(more=more))


#: For routes that keep what they are sent.
RequireRoom = Depends(_require_room)
