"""`graft`: the commands, put together."""

import typer

from cli.commands import adapters, jobs, keys
from cli.commands.chat import chat
from cli.commands.doctor import doctor
from cli.commands.finetune import finetune
from cli.commands.looking import preview
from cli.commands.up import up
from cli.commands.usage import usage

app = typer.Typer(
    help="POST a dataset, get back a model name that answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(up)
app.command()(finetune)
app.command()(preview)
app.add_typer(jobs.app, name="jobs")
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.app, name="keys")
app.command()(usage)
app.command()(chat)
app.command()(doctor)
