import io

import pytest
from rich.console import Console

from cli.launcher.readiness import Readiness
from cli.launcher.report import Report
from cli.launcher.table import NotConfigured, TrainerKind, process_table, read_plan, require


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
    assert words(screen) == ["service: started"]


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


def test_with_ray_the_trainers_place_is_taken_by_who_places_them():
    local, placed = (process_table(["m"], trainer=kind) for kind in TrainerKind)
    assert [spec.name for spec in placed] == [spec.name for spec in local]
    assert [spec.command[2] for spec in local] == ["service", "trainer", "service.engine"]
    assert [spec.command[2] for spec in placed] == ["service", "trainer.ray", "service.engine"]


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("cli.launcher.table.find_spec", lambda name: None)
    require(TrainerKind.LOCAL)
    with pytest.raises(NotConfigured, match=r"pip install 'graft\[ray\]'"):
        require(TrainerKind.RAY)


def test_a_configuration_that_cannot_be_read_says_why(tmp_path):
    config = tmp_path / "graft.yaml"
    config.write_text("trianer: {}")
    with pytest.raises(NotConfigured, match="'trainer'"):
        read_plan({"GRAFT_CONFIG": str(config)})


def test_the_configuration_file_says_what_options_leave_open(tmp_path):
    config = tmp_path / "graft.yaml"
    config.write_text("service: {port: 9100, host: 0.0.0.0, auth: true}")
    plan = read_plan({"GRAFT_CONFIG": str(config), "GRAFT_HOME": str(tmp_path)})
    assert (plan.home, plan.host, plan.port) == (tmp_path, "0.0.0.0", 9100)
    assert plan.base_models == ("smollm2-135m-instruct",)
