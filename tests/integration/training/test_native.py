"""Kernels are compiled once, for whom they belong to alone; where that cannot be, there are none."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.warm.native import build
from trainer.warm.native.library import SOURCES, Dense, Kernels, find_kernels

WITH_THREADS = """
import sys, pathlib, torch
from trainer.warm.native.library import open_kernels
torch.zeros(1_000_000).add_(1)
open_kernels(pathlib.Path(sys.argv[1]))
for line in open("/proc/self/maps"):
    print(line.split()[-1])
"""


def test_torch_and_the_kernels_share_their_threads(kernels, kernel_folder):
    command = [sys.executable, "-c", WITH_THREADS, str(kernel_folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    names = ("libgomp", "libomp", "libiomp")
    mapped = {path for path in done.stdout.split() if Path(path).name.startswith(names)}
    assert len(mapped) == 1


def test_they_are_compiled_once(kernels, kernel_folder, monkeypatch):
    (library,) = kernel_folder.iterdir()
    made = library.stat().st_mtime_ns
    run, commands = build._run, []
    monkeypatch.setattr(build, "_run", lambda command: commands.append(command) or run(command))
    assert find_kernels(kernel_folder).lowrank is not None
    assert [command[1:] for command in commands] == [["--version"]]
    assert library.stat().st_mtime_ns == made


@pytest.mark.parametrize("pays", [True, False])
def test_one_that_does_not_pay_is_left_alone(kernels, kernel_folder, monkeypatch, pays):
    made = Dense.__init__
    monkeypatch.setattr(
        Dense, "__init__", lambda self, *given: (made(self, *given), setattr(self, "pays", pays))[0]
    )
    found = find_kernels(kernel_folder)
    assert found.lowrank is not None
    assert (found.dense is not None) == pays


def test_without_a_compiler_there_are_no_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    assert find_kernels(tmp_path) == Kernels()


def test_where_compiling_fails_there_are_no_kernels_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ("--no-such-option",))
    assert find_kernels(tmp_path) == Kernels()
    assert list(tmp_path.iterdir()) == []


def test_what_others_may_write_to_is_not_run(tmp_path):
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(0o777)
    assert find_kernels(folder) == Kernels()
    assert list(folder.iterdir()) == []


def test_the_folder_is_made_for_its_owner_alone(kernels, tmp_path):
    assert find_kernels(tmp_path / "new").lowrank is not None
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_sources_go_where_the_package_goes():
    assert all(source.is_file() for source in SOURCES)
