"""`graft keys`: on the machine that keeps the ledger, so that the first key can be made."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cli import cabinet
from cli.commands.groups import ListsAndShows
from cli.commands.shared import reporting_errors, screen
from cli.render import keys_table
from cli.settings import HOME_VARIABLE

app = typer.Typer(
    cls=ListsAndShows,
    help="API keys, made and revoked in the home folder itself; no server needs to run.",
    no_args_is_help=False,
)
Home = Annotated[
    Path | None,
    typer.Option(
        envvar=HOME_VARIABLE, help="Folder that everything is kept in.  [default: ~/.graft]"
    ),
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@app.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="Whose key it is; a new name makes a new tenant.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="infer, tune or admin; may be repeated.  [default: infer, tune]"),
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="How long it is good: 12h, 30d, 8w.  [default: for ever]")
    ] = None,
    home: Home = None,
) -> None:
    """Make a key and print it. It is shown this once: nothing keeps it."""
    seconds = None if expires is None else _seconds(expires)
    scopes = scope or ["infer", "tune"]
    with reporting_errors():
        made = cabinet.create(home, tenant=tenant, scopes=scopes, name=name, seconds=seconds)
    # The key alone on standard output, so that a script can have it.
    sys.stdout.write(f"{made.key}\n")
    what = f"{made.id} of {made.tenant}: {', '.join(made.scopes)}. It is not shown again."
    screen(stderr=True).print(Text(what, style="dim"))


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    home: Home = None,
) -> None:
    """Keys, newest first, without themselves."""
    console = screen()
    with reporting_errors():
        keys = cabinet.list_all(home, tenant)
    if keys:
        console.print(keys_table(keys))
    else:
        console.print("No keys yet. graft keys create --tenant NAME")


@app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")], home: Home = None) -> None:
    """Make a key good for nothing. Running services notice within seconds."""
    with reporting_errors():
        key = cabinet.revoke(home, key_id)
    screen().print(Text(f"{key.id} of {key.tenant} is revoked"))


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if match is None:
        raise typer.BadParameter(f"'{text}' is no length of time; say 12h, 30d or 8w.")
    return int(match[1]) * _UNITS[match[2]]
