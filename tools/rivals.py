"""Sets up the environments of the trainers that `make bench` compares us with: each of its own, in `.rivals`.

LLaMA-Factory's pins are old and TRL's are not ours, so neither may touch `.venv`. `--lock` writes their locks anew.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import install
from tools.lock import without_left_outs

RIVALS = install.ROOT / ".rivals"
LOCKS = install.REQUIREMENTS / "bench"
#: What is asked for; everything else follows.
WANTED = {
    "llamafactory": ["llamafactory==0.9.5"],
    "trl": ["trl==1.16.0", "transformers==5.19.0", "peft==0.21.2"],
}
#: torch comes from requirements/torch-cpu.txt, so what it needs has to be named here.
OF_TORCH = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"]
#: No CPU build of these fits torch 2.13.0+cpu, and no text model uses them.
LEFT_OUT = ["torch", "torchaudio", "torchvision", "triton"]
#: LLaMA-Factory imports torchaudio beside everything else, for audio that no row of ours has.
STAND_IN = (
    '"""Stands in for the real torchaudio, of which no CPU build fits (tools/rivals.py)."""\n'
)
STAMP = "graft-installed"


def main() -> None:
    """Lock, or install what is not there yet."""
    arguments = _parse()
    if arguments.lock:
        lock()
        return
    missing = [name for name in WANTED if not _present(arguments.into / name, name)]
    if not missing:
        return
    environment = install.uv_environment(install.pip_settings())
    with tempfile.TemporaryDirectory(prefix="graft-rivals-") as folder:
        uv = install.fetch_uv(Path(folder))
        for name in missing:
            print(f"Setting up {arguments.into / name} ...", flush=True)
            set_up(uv, environment, name, arguments.into / name)


def set_up(uv: str, environment: dict[str, str], name: str, venv: Path) -> None:
    """A virtual environment with torch's CPU build and what the lock names."""
    create = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)]
    install.run(create, environment, f"creating {venv}")
    pip = [uv, "pip", "install", "--python", str(venv / "bin" / "python"), "--no-deps"]
    install_torch(pip, environment)
    # Not --no-build: some of what LLaMA-Factory wants exists as source only.
    command = [*pip, "--require-hashes", "-r", str(LOCKS / f"{name}.txt")]
    install.run(command, environment, f"installing {name}", space=3)
    if name == "llamafactory":
        packages = next((venv / "lib").glob("python3.*/site-packages"))
        (packages / "torchaudio.py").write_text(STAND_IN)
    (venv / STAMP).write_text(_fingerprint(name))


def install_torch(pip: list[str], environment: dict[str, str]) -> None:
    """As in `.venv`: the configured places first, PyTorch's own index only when they have none."""
    command = [*pip, "-r", str(install.REQUIREMENTS / "torch-cpu.txt")]
    first = subprocess.run(
        command, env=environment, cwd=install.ROOT, check=False, capture_output=True
    )
    if first.returncode:
        indexes = f"{environment.get('UV_EXTRA_INDEX_URL', '')} {install.TORCH_CPU_INDEX}".strip()
        install.run(command, {**environment, "UV_EXTRA_INDEX_URL": indexes}, "installing torch")


def lock() -> None:
    """Write both locks: pinned, hashed, each version at least a week old."""
    settings = install.pip_settings()
    # As in tools/lock.py: an extra index seldom tells when a file was published.
    settings.pop("extra-index-url", None)
    environment = install.uv_environment(settings)
    LOCKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="graft-rivals-") as folder:
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text("".join(f'{name} ; sys_platform == "never"\n' for name in LEFT_OUT))
        for name, wanted in WANTED.items():
            asked = Path(folder) / f"{name}.in"
            asked.write_text("\n".join([*wanted, *OF_TORCH]) + "\n")
            target = LOCKS / f"{name}.txt"
            command = [str(install.VENV / "bin" / "uv"), "pip", "compile", "--quiet", str(asked)]
            command += ["--override", str(overrides), "--universal", "--python-version", "3.11"]
            command += ["--generate-hashes", "--no-header", "--no-annotate"]
            command += ["--exclude-newer", "7 days", "--output-file", str(target)]
            install.run(command, environment, f"locking {name}")
            target.write_text(without_left_outs(target.read_text()))


def _present(venv: Path, name: str) -> bool:
    stamp = venv / STAMP
    return stamp.is_file() and stamp.read_text() == _fingerprint(name)


def _fingerprint(name: str) -> str:
    """Changes with all that decides what lies in the environment."""
    parts = [Path(__file__).read_bytes(), (LOCKS / f"{name}.txt").read_bytes()]
    return hashlib.sha256(b"\0".join([sys.version.encode(), *parts])).hexdigest()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Set up the rivals of `make bench`.")
    parser.add_argument("--lock", action="store_true", help="write requirements/bench anew")
    parser.add_argument("--into", type=Path, default=RIVALS, help="where the environments lie")
    return parser.parse_args()


if __name__ == "__main__":
    main()
