import pytest

from adapters.db.urls import read_url
from adapters.errors import InvalidValue
from adapters.settings import LedgerSettings


@pytest.mark.parametrize(
    "url", ["postgresql://h/graft", "postgres://h/graft", "postgresql+psycopg://h/graft"]
)
def test_postgresql_is_spoken_to_by_one_driver_however_its_url_begins(url: str) -> None:
    assert str(read_url(url)) == "postgresql+psycopg://h/graft"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//u:s3cret@h/graft",
        "postgresql://u:s3cret@h:port/graft",
        "s3cret",
        "mysql://u:s3cret@h/graft",
        "postgresql+asyncpg://u:s3cret@h/graft",
    ],
)
def test_what_is_no_url_of_ours_is_refused_without_a_word_of_what_is_in_it(url: str) -> None:
    with pytest.raises(InvalidValue, match="must look like postgresql://") as raised:
        read_url(url)
    assert "s3cret" not in raised.value.message
    assert raised.value.__cause__ is None


def test_settings_do_not_show_the_url() -> None:
    settings = LedgerSettings(database_url="postgresql://u:s3cret@h/graft")
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()}"
    assert settings.database == "postgresql://u:s3cret@h/graft"
