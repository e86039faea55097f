import json
import os

import pytest

from cli.launcher import home as home_module
from cli.launcher.child import describe_exit
from cli.launcher.home import Home, HomeLocked, HomeUnusable


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def test_the_lock_can_be_taken_once_and_tells_by_whom(home):
    assert not home.held()
    with home.lock():
        assert home.held()
        with pytest.raises(HomeLocked, match=rf"pid {os.getpid()}\b.*--home"):
            home.lock()
    assert not home.held()
    home.lock().close()


def test_a_home_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable, match="Cannot use"):
        Home(tmp_path / "file" / "home").lock()


def test_the_table_is_read_as_it_was_written(home):
    assert home.read_table() == {}
    with home.lock():
        home.write_table({"service": 1, "trainer": 2})
    assert (
        home.read_table() == {"service": 1, "trainer": 2} == json.loads(home.table_file.read_text())
    )


def test_the_last_lines_are_those_of_this_run(home):
    with home.open_log("service") as log:
        log.write(b"old\n")
        start = log.tell()
        log.write(b"one\n\ntwo  \n" + "drü\n".encode())
    assert home.last_lines("service", since=start) == ["one", "two", "drü"]
    assert home.last_lines("service", since=start, count=1) == ["drü"]
    assert home.last_lines("trainer", since=0) == []


def test_a_log_that_grew_big_is_set_aside(home, monkeypatch):
    monkeypatch.setattr(home_module, "ROTATE_AT", 10)
    for text in (b"a long first log\n", b"short\n", b"again\n"):
        with home.open_log("service") as log:
            log.write(text)
    assert home.log_file("service").read_bytes() == b"short\nagain\n"
    assert home.log_file("service").with_suffix(".log.1").read_bytes() == b"a long first log\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with 0"), (137, "was killed by SIGKILL"), (255, "exited with 255")],
)
def test_an_exit_code_is_put_into_words(code, words):
    assert describe_exit(code) == words
