"""Which versions are new to a service: each of them once, and only while there is something to remember."""

import time
from dataclasses import replace

from service.background import News
from tests.support.samples import version


def test_a_version_is_new_once_and_one_from_before_the_service_never() -> None:
    now = time.time()
    news = News(now - 10)
    made = replace(version(), created_at=now)
    assert news.is_new(made)
    assert not news.is_new(made)
    assert not news.is_new(replace(version(number=2), created_at=now - 20))


def test_of_a_deleted_adapter_nothing_is_remembered_and_of_others_everything() -> None:
    now = time.time()
    news = News(now - 10)
    gone, there = (replace(version(), adapter=name, created_at=now) for name in ("a", "ab"))
    assert news.is_new(gone)
    assert news.is_new(there)
    news.forget("a")
    assert news.is_new(gone)
    assert not news.is_new(there)
