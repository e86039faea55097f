"""`graft adapters`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cli.client import GraftClient
from cli.commands.groups import ListsAndShows
from cli.commands.shared import HERE, Url, reporting_errors, screen
from cli.render import adapters_table, versions_table
from cli.wire import Share

app = typer.Typer(
    cls=ListsAndShows,
    help="Adapters: `graft adapters` lists them, `graft adapters NAME` shows one.",
    no_args_is_help=False,
)
Name = Annotated[str, typer.Argument(metavar="NAME")]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant; '*' is everybody.")]


@app.command("list")
def list_adapters(url: Url = HERE) -> None:
    """All adapters."""
    console = screen()
    with reporting_errors():
        adapters = GraftClient(url).adapters().data
    if adapters:
        console.print(adapters_table(adapters))
    else:
        console.print("No adapters yet. graft finetune data.jsonl --name support-bot")


@app.command("show")
def show_adapter(name: Name, url: Url = HERE) -> None:
    """One adapter and its versions."""
    console = screen()
    with reporting_errors():
        adapter = GraftClient(url).adapter(name)
    told = f"{adapter.name} on {adapter.base_model}, live: {adapter.live or 'none'}"
    if adapter.shared:
        told += f", shared by {adapter.owner}"
    console.print(Text(told))
    console.print(versions_table(adapter))


Expected = Annotated[
    int | None,
    typer.Option("--expected", min=0, help="Only if it means this version so far; 0 for none."),
]


@app.command("promote")
def promote_version(
    version: Annotated[str, typer.Argument(metavar="NAME@N")],
    *,
    expected: Expected = None,
    url: Url = HERE,
) -> None:
    """Make a version the live one: by its number, or by an alias, as in NAME@canary."""
    name, _, chosen = version.partition("@")
    if not chosen:
        raise typer.BadParameter("say which version: NAME@N or NAME@canary")
    fields: dict[str, str | int] = (
        {"version": int(chosen)} if chosen.isdecimal() else {"alias": chosen}
    )
    if expected is not None:
        fields["expected"] = expected
    with reporting_errors():
        adapter = GraftClient(url).promote(name, fields)
    screen().print(Text(f"{name} means {adapter.live} now"))


@app.command("rollback")
def roll_back(name: Name, *, expected: Expected = None, url: Url = HERE) -> None:
    """Make the version live again that was live before."""
    with reporting_errors():
        live = GraftClient(url).adapter(name).live if expected is None else f"{name}@{expected}"
        number = int(live.rpartition("@")[2]) if live else 0
        adapter = GraftClient(url).roll_back(name, {"expected": number})
    screen().print(Text(f"{name} means {adapter.live} now, no longer {live}"))


@app.command("alias")
def point_alias(
    version: Annotated[str, typer.Argument(metavar="NAME@N")],
    alias: Annotated[str, typer.Argument(metavar="ALIAS")],
    *,
    weight: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of canary and shadow: their share of requests for NAME."),
    ] = 0.0,
    expected: Expected = None,
    url: Url = HERE,
) -> None:
    """Let NAME@ALIAS mean a version: canary, shadow, or a name of your own."""
    name, _, number = version.partition("@")
    if not number.isdecimal():
        raise typer.BadParameter("say which version: NAME@N")
    fields: dict[str, int | float] = {"version": int(number)}
    if weight:
        fields["weight"] = weight
    if expected is not None:
        fields["expected"] = expected
    with reporting_errors():
        adapter = GraftClient(url).point(name, alias, fields)
    share = f", with {weight:.4g} of the requests for {name}" if weight else ""
    screen().print(Text(f"{name}@{alias} means {name}@{adapter.aliases[alias]} now{share}"))


@app.command("unalias")
def remove_alias(
    named: Annotated[str, typer.Argument(metavar="NAME@ALIAS")], url: Url = HERE
) -> None:
    """Remove an alias; its version stays."""
    name, _, alias = named.partition("@")
    if not alias:
        raise typer.BadParameter("say which alias: NAME@ALIAS")
    with reporting_errors():
        GraftClient(url).unpoint(name, alias)
    screen().print(Text(f"{named} means nothing now"))


@app.command("share")
def share_adapter(
    name: Name,
    tenant: Tenant,
    *,
    may_continue: Annotated[
        bool, typer.Option("--continue", help="They may train on from it, into a name of theirs.")
    ] = False,
    may_download: Annotated[
        bool, typer.Option("--download", help="They may fetch its files.")
    ] = False,
    url: Url = HERE,
) -> None:
    """Let another tenant ask an adapter; what was shared with it before is forgotten."""
    with reporting_errors():
        share = GraftClient(url).share(
            name, tenant, may_continue=may_continue, may_download=may_download
        )
    screen().print(Text(f"{name}: {_told(share)}"))


@app.command("shares")
def list_shares(name: Name, url: Url = HERE) -> None:
    """With whom an adapter is shared, and what for."""
    console = screen()
    with reporting_errors():
        shares = GraftClient(url).shares(name).data
    for share in shares:
        console.print(Text(_told(share)))
    if not shares:
        console.print(Text(f"{name} is not shared"))


@app.command("unshare")
def unshare_adapter(name: Name, tenant: Tenant, url: Url = HERE) -> None:
    """Share an adapter with a tenant no longer."""
    with reporting_errors():
        GraftClient(url).unshare(name, tenant)
    screen().print(Text(f"{name} is no longer shared with {_whom(tenant)}"))


@app.command("delete")
def delete_adapter(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = HERE,
) -> None:
    """Delete an adapter with all its versions, or one version: NAME@N."""
    if not yes:
        what = name if "@" in name else f"{name} and all its versions"
        typer.confirm(f"Delete {what}?", abort=True)
    with reporting_errors():
        GraftClient(url).delete_adapter(name)
    screen().print(Text(f"{name} is deleted"))


@app.command("download")
def download_version(
    version: Annotated[str, typer.Argument(metavar="NAME@N")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: what you have named, .tar, here."),
    ] = None,
    url: Url = HERE,
) -> None:
    """Save a version's PEFT directory as a tar file. NAME means the live version, NAME@ALIAS the alias's."""
    target = output or Path(f"{version}.tar")
    with reporting_errors(), GraftClient(url).download(version) as download:
        size = save(download, target)
    screen().print(Text(f"{target}: {size / 1e6:.1f} MB"))


def _told(share: Share) -> str:
    more = {"continue": share.may_continue, "download": share.may_download}
    uses = ["ask", *(use for use, allowed in more.items() if allowed)]
    return f"{_whom(share.tenant)} may {' and '.join(uses)}"


def _whom(tenant: str) -> str:
    return "everybody" if tenant == "*" else tenant


def save(download: Iterator[bytes], target: Path) -> int:
    """Write aside, then rename: what has the name is whole. Returns its size."""
    aside = target.with_name(f"{target.name}.part")
    size = 0
    try:
        with aside.open("wb") as file:
            for chunk in download:
                size += file.write(chunk)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return size
