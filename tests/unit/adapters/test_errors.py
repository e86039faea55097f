import inspect
import pickle

import pytest

from adapters import errors
from adapters.errors import GraftError, UnknownField

ALL = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, GraftError)
]


@pytest.mark.parametrize("error", ALL)
def test_an_error_survives_the_way_to_another_process(error: type[GraftError]) -> None:
    first = error("why", param="p", details=[{"line": 1}], retry_after=2.5)
    second = pickle.loads(pickle.dumps(first))
    assert type(second) is error
    assert (second.message, second.param, second.details, second.retry_after) == (
        "why",
        "p",
        [{"line": 1}],
        2.5,
    )
    assert str(second) == "why"


@pytest.mark.parametrize("error", ALL)
def test_the_tree_at_the_top_of_the_module_tells_name_status_and_code(
    error: type[GraftError],
) -> None:
    tree = (errors.__doc__ or "").splitlines()
    assert any(
        error.__name__ in line and str(error.status) in line and error.code in line for line in tree
    )


@pytest.mark.parametrize("error", [one for one in ALL if one.retry is not None])
def test_the_tree_tells_where_the_status_misleads_about_repeating(error: type[GraftError]) -> None:
    (line,) = [one for one in (errors.__doc__ or "").splitlines() if f"─ {error.__name__} " in one]
    assert f"retry: {'yes' if error.retry else 'no'}" in line


def test_codes_are_not_shared() -> None:
    codes = [error.code for error in ALL]
    assert len(codes) == len(set(codes))


def test_an_unknown_field_suggests_the_nearest_or_lists_all() -> None:
    near = UnknownField.named("temprature", ["temperature", "top_p"], where="the request")
    assert "Did you mean 'temperature'?" in near.message
    far = UnknownField.named("xyz", ["temperature", "top_p"], where="the request")
    assert "Known: temperature, top_p." in far.message
