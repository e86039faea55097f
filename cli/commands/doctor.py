"""`graft doctor`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.commands.shared import screen
from cli.doctor import examine
from cli.settings import HOME_VARIABLE, HOST_VARIABLE, PORT_VARIABLE

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    host: Annotated[str, typer.Option(envvar=HOST_VARIABLE)] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar=PORT_VARIABLE)] = 8000,
    home: Annotated[Path, typer.Option(envvar=HOME_VARIABLE)] = Path("~/.graft"),
) -> None:
    """Look at this machine: what is installed, what would not work, and how to mend it. Exit code 1 if something."""
    table = Table(box=None, show_header=False, pad_edge=False)
    findings = list(examine(home.expanduser().absolute(), host, port))
    for finding in findings:
        text = Text(finding.what)
        if finding.cure:
            text.append(f"\n-> {finding.cure}", style="bold")
        table.add_row(Text(finding.verdict, style=STYLES[finding.verdict]), finding.about, text)
    screen().print(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)
