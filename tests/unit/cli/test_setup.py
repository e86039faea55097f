"""What `make install` reads and decides; the installing itself is what every run of CI proves."""

import re
from pathlib import Path

import pytest

from tools import install

LOCKS = ["cpu.txt", "gpu.txt", "uv.txt", "ray/ray.txt"]


@pytest.mark.parametrize("name", [*LOCKS, "torch-cpu.txt"])
def test_no_lock_names_an_index(name):
    text = (install.REQUIREMENTS / name).read_text()
    assert not re.search(r"://|^\s*-(?!-hash)", text, re.MULTILINE)


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_and_hashed(name):
    text = re.sub(r"^\s*#.*\n", "", (install.REQUIREMENTS / name).read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert all(
        re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:", e, re.DOTALL) for e in entries
    )
    assert "'never'" not in text


def test_uv_is_told_what_pip_knows_but_not_over_what_it_was_told(monkeypatch):
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "7")
    for name in ("UV_FIND_LINKS", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = {"find-links": "/a\n/b", "extra-index-url": "one\n two", "timeout": "180"}
    told = install.uv_environment(settings)
    assert told["UV_FIND_LINKS"] == "/a,/b"
    assert told["UV_EXTRA_INDEX_URL"] == "one two"
    assert told["UV_HTTP_TIMEOUT"] == "7"
    assert "UV_NO_INDEX" not in told
    assert "UV_INDEX_URL" not in told


def test_pip_settings_are_merged_as_pip_does(monkeypatch, tmp_path):
    (tmp_path / "pip.conf").write_text(
        "[global]\ntimeout = 1\nproxy = p\nfind-links = /global\n[install]\nfind-links = /install\n[list]\nformat = x\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_TIMEOUT", "2")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(
        install.sys, "executable", str(Path(install.sys.base_prefix) / "bin" / "python3")
    )
    settings = install.pip_settings()
    assert (settings["timeout"], settings["find-links"]) == ("2", "/install")
    assert "format" not in settings


def test_the_stamp_depends_on_the_flavour_and_on_nothing_that_moves():
    assert install.digest_of("cpu") == install.digest_of("cpu") != install.digest_of("gpu")


def test_a_python_that_is_too_old_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 1))
    with pytest.raises(SystemExit, match=r"make install PYTHON="):
        install.check_python()
