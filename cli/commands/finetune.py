"""`graft finetune`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from cli.client import GraftClient
from cli.commands.looking import show_estimate
from cli.commands.shared import HERE, Url, reporting_errors, screen
from cli.commands.watching import JobView, interrupted_politely
from cli.follow import follow
from cli.render import number
from cli.wire import Job, Progress


def finetune(  # noqa: PLR0913  each is an option that a person types
    data: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="The dataset, one JSON object a line."
        ),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the adapter.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Id of the base model.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples to an optimizer step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    method: Annotated[
        Literal["supervised", "dpo"] | None,
        typer.Option(help="Without it, what the data is for: dpo where rows compare two replies."),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="dpo: how closely to stay to where training started.")
    ] = None,
    continue_from: Annotated[
        str | None, typer.Option(help="An adapter to start from: support-bot or support-bot@3.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    rslora: Annotated[
        bool | None,
        typer.Option(
            "--rslora", help="Scale by alpha / sqrt(rank), for high ranks.", show_default=False
        ),
    ] = None,
    gate: Annotated[
        Literal["auto", "off"] | None,
        typer.Option(
            help="auto: goes live only if it beats the base model on held-out data; off: always."
        ),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="A URL that is told how the job ends.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Train nothing; say what it would come to."),
    ] = False,
    follow_it: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show progress until the job ends.")
    ] = True,
    url: Url = HERE,
) -> None:
    """Train an adapter on a dataset, and watch it learn."""
    options = {
        "name": name,
        "base_model": base_model,
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "method": method,
        "beta": beta,
        "continue_from": continue_from,
        "lora": _as_json(rank=rank, use_rslora=rslora),
        "gate": gate,
        "webhook": webhook,
    }
    fields = {key: str(value) for key, value in options.items() if value is not None}
    console = screen()
    with reporting_errors():
        client = GraftClient(url)
        if dry_run:
            show_estimate(client.estimate(data, fields), console)
            return
        job = client.submit(data, fields)
        console.print(Text(f"job {job.id}, adapter {job.adapter_name or '-'}"))
        if job.webhook and job.webhook.signing_secret:
            told = f"{job.webhook.url} is told; its signing secret, shown this once, is"
            console.print(Text(f"{told} {job.webhook.signing_secret}"), soft_wrap=True)
        if follow_it:
            watch(client, job.id, console)
        else:
            console.print(Text(f"graft jobs follow {job.id}"))


def _as_json(**options: object) -> str | None:
    """Nested options as a form carries them; None where none was given."""
    given = {name: value for name, value in options.items() if value is not None}
    return json.dumps(given) if given else None


def watch(client: GraftClient, job_id: str, console: Console) -> None:
    """Show a job until it ends. A job that did not succeed makes the exit code 1."""
    ended: Job | None = None
    view = JobView(console)
    with interrupted_politely(console, job_id):
        with view:
            for item in follow(client, job_id):
                view.show(item)
                ended = item if isinstance(item, Job) else None
        if ended:
            conclude(ended, view, console)


def conclude(job: Job, view: JobView, console: Console) -> None:
    """The plot, what came of it, and what to do next."""
    for line in view.curve():
        console.print(line, soft_wrap=True)
    if job.status != "succeeded":
        reason = f": {job.error.message}" if job.error else ""
        console.print(Text(f"{job.status}{reason}", style="red"), soft_wrap=True)
        raise typer.Exit(1)
    console.print(
        Text(f"{job.made} is trained. {_judged(job.progress or Progress())}"),
        style="green",
        soft_wrap=True,
    )
    console.print(
        f"\n  graft chat --model {job.adapter_name or job.made}\n",
        highlight=False,
        markup=False,
    )


def _judged(progress: Progress) -> str:
    told = f"Held-out loss {number(progress.valid_loss)}, the base model's {number(progress.base_valid_loss)}."
    if progress.reward_accuracy is not None:
        told += (
            f" It prefers the better reply in {progress.reward_accuracy:.0%} of the held-out pairs."
        )
    return told
