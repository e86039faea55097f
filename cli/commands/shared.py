"""What several commands have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli.client import Refused, Unreachable
from cli.render import problems_table
from cli.settings import DEFAULT_URL, URL_VARIABLE

Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Where graft answers.")]
HERE = DEFAULT_URL
WIDE = 200


def screen(*, stderr: bool = False) -> Console:
    """A console. Where there is no terminal whose width to fit, lines stay whole, for grep and for logs."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """The server's message and its list of problems on standard error, then exit code 1."""
    try:
        yield
    except (Refused, Unreachable) as error:
        console = screen(stderr=True)
        console.print(Text(str(error), style="red"), soft_wrap=True)
        if isinstance(error, Refused) and error.problems:
            console.print(problems_table(error.problems))
        raise typer.Exit(1) from None
