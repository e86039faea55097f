"""The table of docs/reliability.md: a row is replaced by the run that has just made its experiment, others stay."""

import platform
import re
import sqlite3
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.sizes import CI, RELEASE, Chaos, Outcome
from tools.postgres import binaries

BEGIN, END = "<!-- scoreboard: begin -->", "<!-- scoreboard: end -->"
HEAD = "| id | experiment | size | trials | result | upper bound (95 %) | date | seed | with |"
RULE = "|---|---|---|---|---|---|---|---|---|"
#: As the table has it.
SIZES = {CI: "small", RELEASE: "release"}
_LAST = 99
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
_NUMBER = re.compile(r"\d+")


def write(page: Path, chaos: Chaos) -> None:
    """Put what was found into the table of the page."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    rows = {_key(line): line for line in table.splitlines() if line.startswith(("| R", "| all"))}
    rows |= {_key(row): row for row in (_row(outcome, chaos) for outcome in chaos.outcomes)}
    lines = [BEGIN, HEAD, RULE, *(rows[key] for key in sorted(rows)), END]
    page.write_text(before + "\n".join(lines) + after)


def _key(row: str) -> tuple[int, str]:
    """By number, then by text: R2 before R10, and several rows of one experiment apart."""
    name = row.split("|")[1].strip()
    number = _NUMBER.search(name)
    return int(number[0]) if number else _LAST, name


def _row(outcome: Outcome, chaos: Chaos) -> str:
    cells = [
        outcome.id,
        outcome.what,
        SIZES[outcome.size],
        f"{outcome.trials:,} {outcome.unit}",
        outcome.result,
        outcome.bound,
        datetime.now(UTC).date().isoformat(),
        str(chaos.seed),
        _versions(),
    ]
    return f"| {' | '.join(cells)} |"


def _own_version() -> str:
    """As the checkout has it: it need not be installed as a package."""
    told: str = tomllib.loads(_PROJECT.read_text())["project"]["version"]
    return told


def _versions() -> str:
    found = binaries()
    server = ""
    if found is not None:
        command = [str(found / "postgres"), "--version"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        server = f", PostgreSQL {told.split()[2]}"
    return (
        f"graft {_own_version()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}{server}"
    )
