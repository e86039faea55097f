from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from service.schemas.pages import Page


class Item(BaseModel):
    id: str


@settings(deadline=None, database=None)
@given(st.integers(0, 30), st.integers(1, 7))
def test_whoever_goes_on_from_the_last_one_sees_each_once(count: int, limit: int) -> None:
    seen: list[str] = []
    more = True
    while more:
        start = len(seen)
        assert start == 0 or seen[-1] == str(start - 1)
        page = Page[Item].of(
            range(start, min(count, start + limit + 1)), limit, lambda n: Item(id=str(n))
        )
        assert len(page.data) <= limit
        ends = [one.id for one in page.data] or [None]
        assert (page.first_id, page.last_id) == (ends[0], ends[-1])
        assert page.data or not page.has_more
        seen += [one.id for one in page.data]
        more = page.has_more
    assert seen == [str(n) for n in range(count)]
