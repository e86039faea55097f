"""The kernel is compiled once, for whom it belongs to alone; where that cannot be, there is none."""

import subprocess
import sys
from pathlib import Path

from trainer.warm.native import build
from trainer.warm.native.library import SOURCE, find_lowrank

WITH_THREADS = """
import sys, pathlib, torch
from trainer.warm.native.library import find_lowrank
torch.zeros(1_000_000).add_(1)
assert find_lowrank(pathlib.Path(sys.argv[1])) is not None
for line in open("/proc/self/maps"):
    print(line.split()[-1])
"""


def test_torch_and_the_kernel_share_their_threads(kernel, kernel_folder):
    command = [sys.executable, "-c", WITH_THREADS, str(kernel_folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    names = ("libgomp", "libomp", "libiomp")
    mapped = {path for path in done.stdout.split() if Path(path).name.startswith(names)}
    assert len(mapped) == 1


def test_it_is_compiled_once(kernel, kernel_folder, monkeypatch):
    (library,) = kernel_folder.iterdir()
    made = library.stat().st_mtime_ns
    run, commands = build._run, []
    monkeypatch.setattr(build, "_run", lambda command: commands.append(command) or run(command))
    assert find_lowrank(kernel_folder) is not None
    assert [command[1:] for command in commands] == [["--version"]]
    assert library.stat().st_mtime_ns == made


def test_without_a_compiler_there_is_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    assert find_lowrank(tmp_path) is None


def test_where_compiling_fails_there_is_no_kernel_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ("--no-such-option",))
    assert find_lowrank(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_what_others_may_write_to_is_not_run(tmp_path):
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(0o777)
    assert find_lowrank(folder) is None
    assert list(folder.iterdir()) == []


def test_the_folder_is_made_for_its_owner_alone(kernel, tmp_path):
    assert find_lowrank(tmp_path / "new") is not None
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_source_goes_where_the_package_goes():
    assert SOURCE.is_file()
