"""Sets up `.venv`: the pinned packages of the flavour that fits this machine, and the `graft` command.

Standard library only, for it runs before anything is installed. Safe to run again: it returns at once when nothing
it depends on has changed, and otherwise continues with what is already there.

1. pip fetches `uv` (pinned, hashed), so pip's own configuration decides where from. uv makes the environment, which
   spares us Debian's python3-venv, and fills it: seconds, where pip takes minutes.
2. CPU flavour only: torch's CPU build, from pip's configured places, or else from PyTorch's CPU index.
3. Everything else, hash-checked.
4. A `.pth` file and a `graft` script. An editable install would write the same two things, at the price of one more
   build backend to pin and fetch.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements"
STAMP = VENV / "graft-installed"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, TOO_NEW = (3, 11), (3, 15)

LAUNCH_SCRIPT = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
from cli.main import app

app()
"""

ADVICE = """
make install: {step} did not work; the reason is above.
  What it needs: to reach the package index that pip is configured for ({python} -m pip config list),
  about {space} GB of disk, and nothing else. A proxy, a mirror or a folder of wheels is told to pip as usual
  (pip.conf or PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_CERT); this set-up follows it.
  Then run `make install` again: it continues where it stopped.
"""


def main() -> None:
    arguments = parse_arguments()
    flavour: str = arguments.flavour or detect_flavour()
    check_python()
    fingerprint = digest_of(flavour)
    if STAMP.is_file() and STAMP.read_text() == fingerprint:
        return
    STAMP.unlink(missing_ok=True)
    print(f"Setting up .venv ({flavour} flavour, Python {sys.version.split()[0]}) ...", flush=True)
    environment = uv_environment(pip_settings())
    with tempfile.TemporaryDirectory(prefix="graft-install-") as folder:
        uv = fetch_uv(Path(folder))
        make_environment(uv, environment)
        if flavour == "cpu":
            install_torch(uv, environment)
        install_packages(uv, environment, flavour)
    install_project()
    STAMP.write_text(fingerprint)
    print("Ready. `make serve` starts everything; .venv/bin/graft --help shows the commands.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Set up .venv.")
    parser.add_argument(
        "--flavour", choices=["cpu", "gpu"], help="default: gpu if there is an NVIDIA GPU"
    )
    return parser.parse_args()


def detect_flavour() -> str:
    gpu = shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    return "gpu" if gpu else "cpu"


def check_python() -> None:
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        raise SystemExit(
            f"graft needs Python 3.11 to 3.14; {sys.executable} is {sys.version.split()[0]}. "
            "Name another one: make install PYTHON=python3.11"
        )


def digest_of(flavour: str) -> str:
    """Changes with all that decides what lies in .venv: the locks, this file, Python, and where the checkout lies."""
    parts = [flavour, sys.version, sys.executable, str(ROOT)]
    files = [Path(__file__), *sorted(REQUIREMENTS.glob("*.txt"))]
    content = "\0".join(parts).encode() + b"\0".join(file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- what pip is configured for


def pip_settings() -> dict[str, str]:
    """The settings of pip in force for `pip install`: files first, its environment variables over them."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    if listing.returncode:
        raise SystemExit(f"graft's set-up needs pip: {listing.stderr.strip()}")
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in found:
            found[section][name] = ast.literal_eval(value)
    return {**found["global"], **found["install"], **found[":env:"]}


def uv_environment(settings: dict[str, str]) -> dict[str, str]:
    """The process environment for uv, told what pip knows. By variables, so that no password shows in `ps`.

    Indexes are searched as pip searches them, all for every package (uv would stop at the first that knows the name);
    the hashes in the locks are what makes that safe.
    """
    known = {
        "UV_INDEX_URL": settings.get("index-url"),
        "UV_EXTRA_INDEX_URL": settings.get("extra-index-url"),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_INSECURE_HOST": settings.get("trusted-host"),
        "UV_NO_INDEX": "1" if settings.get("no-index", "") in {"1", "true", "yes", "on"} else "",
        "UV_HTTP_TIMEOUT": settings.get("timeout") or settings.get("default-timeout"),
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": settings.get("cert"),
        "HTTPS_PROXY": settings.get("proxy"),
        "HTTP_PROXY": settings.get("proxy"),
        "UV_PYTHON_DOWNLOADS": "never",
    }
    told = {name: " ".join(value.split()) for name, value in known.items() if value}
    return {**told, **os.environ}


# ---------------------------------------------------------------- the four steps


def run(command: list[str], environment: dict[str, str] | None, step: str, space: int = 1) -> None:
    if subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode:
        raise SystemExit(ADVICE.format(step=step, python=sys.executable, space=space))


def fetch_uv(folder: Path) -> str:
    """uv, in a folder of its own: `--target` is the one way that pip allows on every Debian and Ubuntu."""
    flags = ["--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
    pinned = ["--require-hashes", "--only-binary", ":all:", "-r", str(REQUIREMENTS / "uv.txt")]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder), *pinned]
    run(command, {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}, "fetching uv with pip")
    return str(folder / "bin" / "uv")


def make_environment(uv: str, environment: dict[str, str]) -> None:
    """.venv, made anew only if there is none or it belongs to another Python."""
    probe = [str(VENV / "bin" / "python"), "-c", "import sys; print(sys.version)"]
    try:
        present = subprocess.run(probe, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        present = ""
    if present != sys.version.strip():
        command = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)]
        run(command, environment, "creating .venv")


def pip_install(uv: str, *rest: str) -> list[str]:
    python = str(VENV / "bin" / "python")
    return [uv, "pip", "install", "--python", python, "--no-deps", "--no-build", *rest]


def install_torch(uv: str, environment: dict[str, str]) -> None:
    """The CPU build of torch: the configured places are asked first, PyTorch's index only when they have none."""
    command = pip_install(uv, "-r", str(REQUIREMENTS / "torch-cpu.txt"))
    first = subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True)
    if first.returncode == 0:
        return
    print(f"torch: not where pip is configured to look; asking {TORCH_CPU_INDEX}", flush=True)
    indexes = f"{environment.get('UV_EXTRA_INDEX_URL', '')} {TORCH_CPU_INDEX}".strip()
    run(command, {**environment, "UV_EXTRA_INDEX_URL": indexes}, "installing torch")


def install_packages(uv: str, environment: dict[str, str], flavour: str) -> None:
    locks = ["-r", str(REQUIREMENTS / "uv.txt"), "-r", str(REQUIREMENTS / f"{flavour}.txt")]
    space = {"cpu": 4, "gpu": 12}[flavour]
    command = pip_install(uv, "--require-hashes", *locks)
    run(command, environment, f"installing requirements/{flavour}.txt", space)


def install_project() -> None:
    python = VENV / "bin" / "python"
    packages = next((VENV / "lib").glob("python3.*/site-packages"))
    (packages / "graft.pth").write_text(f"{ROOT}\n")
    script = VENV / "bin" / "graft"
    script.write_text(LAUNCH_SCRIPT.format(python=python))
    script.chmod(0o755)


if __name__ == "__main__":
    main()
