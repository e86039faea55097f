"""The command, with a benchmark that measures nothing."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import bench
from bench import __main__ as command
from bench.measure import CannotRun
from bench.table import Row, Table

SHORT = ["resolve", "scrape", "quota", "traces", "hop", "admit", "train"]
LONG = ["hop_engine", "cold_load", "engine_cpu", "lora_cpu", "train_e2e", "train_gpu"]


@pytest.fixture
def ran(monkeypatch):
    """A benchmark called `fake`; the settings it is run with."""
    seen = []

    def run(settings):
        seen.append(settings)
        assert settings.home.is_dir()
        row = Row(name="it", unit="s", better="lower", ours=[1.0], peer=[2.0])
        return Table(name="fake", what="nothing", rows=[row])

    monkeypatch.setitem(sys.modules, "bench.fake", SimpleNamespace(run=run))
    monkeypatch.setattr(command, "BENCHMARKS", {"fake": "measures nothing"})
    return seen


def test_the_list_names_every_benchmark_and_there_is_a_module_for_each(capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines]
    assert listed == [*SHORT, *LONG]
    long = [line.split()[0] for line in lines if line.endswith("(on request)")]
    assert long == LONG
    here = Path(bench.__file__).parent
    for name in listed:
        assert "\ndef run(settings: Settings) -> Table:" in (here / f"{name}.py").read_text()


def test_without_names_all_run_in_a_home_that_is_gone_afterwards(ran, capsys):
    assert command.main(["--rounds", "5"]) == 0
    out = capsys.readouterr().out
    assert "fake: nothing" in out
    assert "2 (2..2)" in out
    assert "above 1 ours is faster" in out
    assert ran[0].rounds == 5
    assert not ran[0].home.exists()


def test_a_given_home_is_kept(ran, tmp_path):
    command.main(["fake", "--home", str(tmp_path)])
    assert ran[0].home == tmp_path
    assert tmp_path.exists()


def test_what_is_asked_for_reaches_the_benchmark(ran, tmp_path):
    more = ["--threads", "3", "--peers", "peft,trl", "--workloads", "tiny8", "--shape", "tiny"]
    command.main(["fake", *more, "--rivals", str(tmp_path)])
    assert ran[0].threads == 3
    assert ran[0].peers == ("peft", "trl")
    assert ran[0].workloads == ("tiny8",)
    assert ran[0].shape == "tiny"
    assert ran[0].rivals == tmp_path


def test_what_is_missing_is_said_in_a_sentence_not_a_traceback(monkeypatch, capsys):
    def run(settings):
        raise CannotRun("trl is not there: run `make bench-rivals` first.")

    monkeypatch.setitem(sys.modules, "bench.fake", SimpleNamespace(run=run))
    monkeypatch.setattr(command, "BENCHMARKS", {"fake": "cannot run"})
    assert command.main(["--rounds", "1"]) == 1
    assert "fake: trl is not there: run `make bench-rivals` first." in capsys.readouterr().err


def test_json_is_all_there_is_on_standard_output(ran, capsys):
    command.main(["--json", "--rounds", "1"])
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["tables"][0]["rows"][0]["ratio"]["median"] == 2.0
    assert answer["machine"]["cores"] >= 1
    assert "too few to quote" in printed.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["--rounds", "0"], ["--rounds", "many"]])
def test_nonsense_is_refused_before_anything_runs(ran, arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        command.main(arguments)
    assert refused.value.code == 2
    assert "usage" in capsys.readouterr().err
    assert not ran


def test_listing_loads_neither_torch_nor_the_service():
    program = (
        "import sys; from bench.__main__ import main; main(['--list']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'fastapi')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
