"""What a process takes and what is left, read from Linux."""

import pytest

from trainer.warm.meters import ProcMeter


def test_free_memory_is_the_smaller_of_the_machines_and_the_containers(tmp_path, monkeypatch):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    cgroup.mkdir()
    monkeypatch.setattr("trainer.warm.meters._PROC", proc)
    monkeypatch.setattr("trainer.warm.meters._CGROUP", cgroup)
    meter = ProcMeter()
    assert meter.free() is None
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    4000 kB\n")
    assert meter.free() == 4000 * 1024
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1000\n")
    assert meter.free() == 4000 * 1024
    (cgroup / "memory.max").write_text("2000000\n")
    assert meter.free() == 1_999_000


@pytest.mark.skipif("sys.platform != 'linux'")
def test_a_peak_that_is_over_is_still_seen():
    meter = ProcMeter()
    meter.begin()
    assert meter.took() is not None
    assert meter.took() < 30e6
    data = bytearray(64_000_000)
    data[::4096] = b"x" * len(data[::4096])
    del data
    assert meter.took() > 50e6
    meter.begin()
    assert meter.took() < 30e6
