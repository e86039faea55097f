"""Pages of a list, as OpenAI's clients go through them: on from `last_id`, as long as there is more."""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel


class Listed(BaseModel):
    """What pages are made of."""

    #: What `after` names.
    id: str


Found = TypeVar("Found")
Item = TypeVar("Item", bound=Listed)


class Page(BaseModel, Generic[Item]):
    """Some of a list, in its order."""

    object: Literal["list"]
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, found: Sequence[Found], limit: int, wire: Callable[[Found], Item]) -> Self:
        """A page of the first `limit`. One more than that was asked for: if it is there, so is another page."""
        data = [wire(one) for one in found[:limit]]
        return cls(
            object="list",
            data=data,
            has_more=len(found) > limit,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )
