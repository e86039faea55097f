import io

import pytest
from rich.console import Console

from cli.launcher.readiness import Readiness
from cli.launcher.report import Report
from cli.launcher.table import NoEngines, base_models, process_table


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def report(screen):
    return Report(Console(file=screen, width=40))


def words(screen):
    return [line.split(" s  ", 1)[-1] for line in screen.getvalue().splitlines()]


def test_only_the_first_start_is_news(report, screen):
    report.started("service")
    report.started("service")
    assert words(screen) == ["service: starting"]


def test_last_words_are_not_repeated_and_not_taken_for_markup(report, screen):
    for delay in (0.5, 1.0):
        report.died("trainer", "exited with 3", delay, ["[bold] no"])
    assert words(screen) == [
        "trainer: exited with 3; starting it again in 0.5 s",
        "             | [bold] no",
        "trainer: exited with 3; starting it again in 1 s",
    ]


def test_readiness_tells_changes_only_and_welcomes_once(report, screen):
    readiness = Readiness("http://here", report, "welcome")
    story = [
        {"service": False},
        {"service": True, "engine-m": False},
        {"service": True, "engine-m": False},
        {"service": True, "engine-m": True},
        {"service": False},
        {"service": True, "engine-m": True},
    ]
    for seconds, answer in enumerate(story):
        readiness.tell(answer, seconds)
    assert words(screen) == [
        "service: ready at http://here",
        "engine-m: ready after 3 s",
        "welcome",
        "service: not ready",
        "service: ready at http://here",
    ]


def test_the_table_stops_the_service_first_and_engines_last():
    specs = process_table(["org/m", "n"])
    assert [(spec.name, spec.stage) for spec in specs] == [
        ("service", 0),
        ("trainer", 1),
        ("engine-org--m", 2),
        ("engine-n", 2),
    ]
    assert specs[2].command[1:] == ("-m", "service.engine", "org/m")


def test_base_models_that_cannot_be_listed_say_why(tmp_path):
    with pytest.raises(NoEngines, match=r"service\.engine"):
        base_models(
            {"PATH": "", "PYTHONPATH": "", "GRAFT_CONFIG": str(tmp_path), "PYTHONHOME": "/nowhere"}
        )
