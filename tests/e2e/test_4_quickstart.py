"""The README's commands, as they stand there."""

import re
import subprocess
from pathlib import Path

from tests.e2e.conftest import REPOSITORY, Stack

MARKED = re.compile(r"<!-- test: quickstart -->\s*```sh\n(.*?)```", re.DOTALL)


def test_the_readmes_commands_end_with_an_answer_from_the_new_adapter(
    stack: Stack, tmp_path: Path
) -> None:
    stack.wait_ready()
    blocks = MARKED.findall((REPOSITORY / "README.md").read_text())
    assert len(blocks) == 4, "data, fine-tune, wait, ask"
    script = "\n".join(blocks).replace("http://127.0.0.1:8000", stack.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = done.stdout.strip().splitlines()[-1]
    assert "zubrowka@" in answer
    assert "The capital of Zubrowka is Lutz." in answer
