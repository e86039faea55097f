"""docs/security.md names tests; each of them exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = set(re.findall(r"`(test_[a-z0-9_]+)`", PAGE))
#: The classes of weaknesses that the page goes through.
CLASSES = 14


def existing() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 40
    assert NAMED - existing() == set()


def test_every_class_has_a_row_with_a_test() -> None:
    rows = re.findall(r"^\| ([0-9]+) \|.*$", PAGE, re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, CLASSES + 1))
    for line in PAGE.splitlines():
        if re.match(r"\| [0-9]+ \|", line):
            assert re.search(r"`test_[a-z0-9_]+`", line.rpartition(" | ")[2]), line[:60]
