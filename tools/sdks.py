"""Sets up the older OpenAI SDKs that graft promises to work with: each in an environment of its own, in `.sdks`.

The newest is in `.venv`. `--lock` writes requirements/sdk anew.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from tools import install

SDKS = install.ROOT / ".sdks"
LOCKS = install.REQUIREMENTS / "sdk"
#: By version, with what it does not pin itself: 1.50 passes arguments that httpx has dropped since.
WANTED = {"2.0.0": ["openai==2.0.0"], "1.50.0": ["openai==1.50.0", "httpx==0.27.2"]}
STAMP = "graft-installed"


def main() -> None:
    """Lock, or install what is not there yet."""
    parser = argparse.ArgumentParser(description="Set up older OpenAI SDKs.")
    parser.add_argument("--lock", action="store_true", help="write requirements/sdk anew")
    if parser.parse_args().lock:
        lock()
        return
    environment = install.uv_environment(install.pip_settings())
    for version in WANTED:
        stamp = SDKS / version / STAMP
        if not stamp.is_file() or stamp.read_text() != _fingerprint(version):
            set_up(environment, version)
            stamp.write_text(_fingerprint(version))


def interpreter(version: str) -> Path:
    """The Python that has this SDK."""
    return SDKS / version / "bin" / "python"


def set_up(environment: dict[str, str], version: str) -> None:
    """A virtual environment with what the lock names."""
    print(f"Setting up {SDKS / version} ...", flush=True)
    create = ["venv", "--quiet", "--clear", "--python", sys.executable, str(SDKS / version)]
    install.run([_uv(), *create], environment, f"creating {SDKS / version}")
    flags = ["--quiet", "--no-deps", "--no-build", "--require-hashes"]
    command = [_uv(), "pip", "install", "--python", str(interpreter(version)), *flags]
    install.run([*command, "-r", str(LOCKS / f"{version}.txt")], environment, f"openai {version}")


def lock() -> None:
    """Write the locks: pinned, hashed, each version at least a week old."""
    settings = install.pip_settings()
    # As in tools/lock.py: an extra index seldom tells when a file was published.
    settings.pop("extra-index-url", None)
    environment = install.uv_environment(settings)
    LOCKS.mkdir(exist_ok=True)
    for version, wanted in WANTED.items():
        asked = LOCKS / f"{version}.in"
        asked.write_text("\n".join(wanted) + "\n")
        command = [_uv(), "pip", "compile", "--quiet", str(asked), "--universal"]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--exclude-newer", "7 days", "--output-file", str(LOCKS / f"{version}.txt")]
        install.run(command, environment, f"locking openai {version}")
        asked.unlink()


def _uv() -> str:
    return str(install.VENV / "bin" / "uv")


def _fingerprint(version: str) -> str:
    """Changes with all that decides what lies in the environment."""
    parts = [Path(__file__).read_bytes(), (LOCKS / f"{version}.txt").read_bytes()]
    return hashlib.sha256(b"\0".join([sys.version.encode(), *parts])).hexdigest()


if __name__ == "__main__":
    main()
