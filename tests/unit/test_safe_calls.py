"""The static gate: what runs a stranger's code or words is called nowhere, or only in places that are named here.

ruff's S rules are bandit's, and are on for the product (`select = ["ALL"]`); what they do not know is below.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("adapters", "cli", "service", "trainer", "vllm_plugin")
SOURCES = sorted(path for package in (*PRODUCT, "tools") for path in (ROOT / package).rglob("*.py"))
#: Modules that are not imported, by why.
MODULES = {
    "cloudpickle": "unpickling runs code",
    "dill": "unpickling runs code",
    "joblib": "unpickling runs code",
    "marshal": "reads code",
    "pickle": "unpickling runs code",
    "shelve": "unpickling runs code",
    "shlex": "there are no command lines to put together",
    "tarfile.extractall": "writes where the archive says",
    "telnetlib": "no secrecy",
    "xmlrpc": "no need",
    "zipfile": "archives are tar, read by adapters/peft/tar.py",
}
#: Calls that are not made: by their last names, with keywords where those decide.
CALLS = {
    "torch.load",
    "numpy.load",
    "np.load",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
    "compile",
    "__import__",
    "jinja2.Template",
    "jinja2.Environment",
    "tarfile.open",
    "shutil.unpack_archive",
    "tempfile.mktemp",
    "importlib.import_module",
}
KEYWORDS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "verify": False}
#: File and what is called there -> why that is no danger.
NAMED = {
    (
        "service/engine/__main__.py",
        "os.execve",
    ): "becomes vLLM; a list of words, none of them a request's",
    ("cli/guard.py", "os.execvp"): "becomes what the launcher starts; a list of words",
}
EXEC = re.compile(r"os\.(exec|spawn|posix_spawn)\w*")


def spelt(node: ast.expr) -> str:
    """`a.b.c` of a call."""
    if isinstance(node, ast.Attribute):
        return f"{spelt(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[int, str, dict[str, object]]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            given = {
                word.arg: word.value.value
                for word in node.keywords
                if word.arg and isinstance(word.value, ast.Constant)
            }
            yield node.lineno, spelt(node.func), given


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


#: Archives that these open are pinned by their digests.
PINNED = {("tools/helm.py", "zipfile"), ("tools/helm.py", "tarfile.open")}


def unsafe(path: Path) -> Iterator[str]:
    """What is wrong in that file, by line."""
    where = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    for name in imports(path):
        if {name, name.partition(".")[0]} & MODULES.keys() and (where, name) not in PINNED:
            yield f"{where} imports {name}"
    for line, name, given in calls(path):
        banned = name in CALLS and (where, name) not in PINNED
        if banned or (EXEC.fullmatch(name) and (where, name) not in NAMED):
            yield f"{where}:{line} calls {name}"
        for keyword, value in KEYWORDS.items():
            if given.get(keyword) is value:
                yield f"{where}:{line} says {keyword}={value}"


def test_nothing_in_the_product_runs_what_a_stranger_has_written() -> None:
    assert len(SOURCES) > 150
    assert [found for path in SOURCES for found in unsafe(path)] == []


def test_what_is_allowed_by_name_is_still_there() -> None:
    for where, name in NAMED:
        assert name in {called for _, called, _ in calls(ROOT / where)}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load('x', weights_only=True)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "import os\nos.execv('/bin/sh', ['sh'])",
        "import yaml\nyaml.load('x', Loader=yaml.SafeLoader)",
        "import numpy as np\nnp.load('x')",
        "eval('1')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "import jinja2\njinja2.Environment()",
        "import zipfile",
    ],
)
def test_the_gate_would_see_it(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(line)
    assert len(list(unsafe(tmp_path / "bad.py"))) >= 1


def test_ruffs_security_rules_are_on_for_the_product() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert settings["select"] == ["ALL"]
    assert {rule for rule in settings["ignore"] if re.fullmatch(r"S[0-9]*", rule)} == {"S101"}
    excepted = {
        place: [rule for rule in rules if re.fullmatch(r"S[0-9]*", rule)]
        for place, rules in settings["per-file-ignores"].items()
    }
    # The command line and the tools start processes, by lists of words.
    assert {place: rules for place, rules in excepted.items() if rules} == {
        "tests/**": ["S"],
        "bench/**": ["S"],
        "tools/**": ["S603"],
        "cli/**": ["S603"],
    }


def test_every_exception_from_them_says_why() -> None:
    found = [
        (path, line)
        for package in PRODUCT
        for path in (ROOT / package).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"noqa: .*\bS[0-9]{3}", line)
    ]
    assert len(found) < 15
    bare = re.compile(r"# noqa: [A-Z0-9, ]+$")
    unsaid = {str(path.relative_to(ROOT)) for path, line in found if bare.search(line)}
    assert unsaid == set()
