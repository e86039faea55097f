"""How many arenas threads allocate from, as the C library itself tells it."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's arenas")

#: All threads hold memory at once; then the arenas are told, one `<heap nr=` each.
SCRIPT = """
import ctypes, sys, threading
from adapters.heap import share_arenas
if sys.argv[1] == "shared":
    assert share_arenas()
together = threading.Barrier(12)
def hold():
    held = [bytearray(2000 + at) for at in range(100)]
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
told = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
"""


def arenas(how: str, told: Path) -> int:
    subprocess.run([sys.executable, "-c", SCRIPT, how, str(told)], check=True)
    return told.read_text().count("<heap nr=")


def test_threads_share_two_arenas_where_they_are_told_to(tmp_path):
    assert arenas("as-it-is", tmp_path / "a") > 2
    assert arenas("shared", tmp_path / "b") == 2
