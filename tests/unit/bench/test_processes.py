"""Processes under measurement end with the measurement, and tell why where they fail."""

import json
import os
import socket
import sys
import time

import pytest

from adapters.settings import BaseModelSettings, LedgerSettings
from bench.processes import configure, cpu_seconds, free_port, python, running


def test_a_process_is_gone_when_the_block_is_left(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with running(command, tmp_path / "log") as process:
        assert process.poll() is None
    assert process.returncode is not None


def wait_in_vain(log):
    with running([sys.executable, "-c", "print('the port is taken')"], log) as process:
        process.wait()
        raise TimeoutError


def test_a_failure_carries_what_the_process_said(tmp_path):
    with pytest.raises(TimeoutError) as failed:
        wait_in_vain(tmp_path / "log")
    assert "the port is taken" in failed.value.__notes__[0]


def test_the_callers_database_is_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_DATABASE_URL", "postgresql://production")
    monkeypatch.setenv("GRAFT_HOME", "/srv/graft")
    ledger = LedgerSettings(
        home=tmp_path,
        base_models=(BaseModelSettings(id="tiny", source="/nowhere"),),
        database_url="",
    )
    config = configure(ledger, tmp_path)
    assert json.loads(config.read_text())["ledger"]["base_models"][0]["id"] == "tiny"
    (tmp_path / "show.py").write_text(
        "from adapters.settings import LedgerSettings\n"
        "s = LedgerSettings()\n"
        "print(s.home, s.database, s.base_model_ids)\n"
    )
    command = python(config, "show", PYTHONPATH=f"{tmp_path}:.")
    with running(command, tmp_path / "log") as process:
        assert process.wait() == 0
    assert (tmp_path / "log").read_text().split() == [
        str(tmp_path),
        f"sqlite:///{tmp_path}/graft.db",
        "['tiny']",
    ]


def test_what_a_process_computes_is_counted_and_what_it_sleeps_is_not():
    before = cpu_seconds(os.getpid())
    while time.process_time() < before + 0.1:
        pass
    computed = cpu_seconds(os.getpid())
    assert computed >= before + 0.05
    time.sleep(0.2)
    assert cpu_seconds(os.getpid()) < computed + 0.1


def test_a_free_port_can_be_listened_on():
    with socket.create_server(("127.0.0.1", free_port())):
        pass
