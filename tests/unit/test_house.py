"""Rules of the house that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapters", "cli", "service", "trainer", "vllm_plugin")
#: Lists that one looks things up in, of many short entries that belong together: errors, tables.
LISTS = {"adapters/errors.py": 450, "adapters/db/schema.py": 450}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    long = {
        name: lines
        for path in MODULES
        if (lines := len(path.read_text().splitlines()))
        > LISTS.get(name := str(path.relative_to(ROOT)), 350)
    }
    assert long == {}


def test_hardly_any_function_is_longer_than_fifty_lines() -> None:
    functions = [
        node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert sum(length > 50 for length in functions) / len(functions) < 0.04


@pytest.mark.parametrize(
    "module",
    [
        "service.__main__",
        "service.engine.__main__",
        "trainer.__main__",
        "trainer.ray.__main__",
        "cli.main",
    ],
)
def test_the_light_processes_load_neither_torch_nor_vllm(module: str) -> None:
    heavy = "{'torch', 'transformers', 'vllm', 'peft', 'ray'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_is_ever_unpickled() -> None:
    words = ("import pickle", "torch.load(", "from pickle", "joblib")
    guilty = [str(path) for path in MODULES for word in words if word in path.read_text()]
    assert guilty == []
