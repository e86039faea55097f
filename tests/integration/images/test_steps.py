"""The Dockerfile's steps, run to the letter outside of a container: `make images`, since they take minutes."""

import os
import subprocess

from tests.integration.chart.test_dockerfile import RUNS
from tools import install


def test_the_service_runs_on_what_its_steps_install_and_nothing_else(tmp_path):
    # The steps of the target `service`, to the letter, with another PREFIX. Those that make folders and the large
    # targets (torch, vLLM) need a container: docs/kubernetes.md says what was built where.
    prefix = tmp_path / "graft"
    steps = [RUNS[0], *(one for one in RUNS if "image/service.txt" in one)]
    environment = {**os.environ, "PREFIX": str(prefix), "PIP_ONLY_BINARY": ":all:"}  # noqa: TID251
    for step in steps:
        done = subprocess.run(
            ["sh", "-c", step],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=install.ROOT,
        )
        assert done.returncode == 0, done.stderr
    for module in (
        "service",
        "service.keys",
        "service.engine.canary",
        "service.tokens",
        "adapters",
    ):
        done = subprocess.run(
            [str(prefix / "bin" / "python"), "-m", module, "--help"],
            env={"PYTHONPATH": str(install.ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, (module, done.stderr)
