"""`graft jobs`."""

from typing import Annotated

import typer
from rich.text import Text

from cli.client import GraftClient
from cli.commands.finetune import watch
from cli.commands.groups import ListsAndShows
from cli.commands.shared import HERE, Url, reporting_errors, screen
from cli.follow import history
from cli.render import event_line, job_table, jobs_table

app = typer.Typer(
    cls=ListsAndShows,
    help="Fine-tuning jobs: `graft jobs` lists them, `graft jobs ID` shows one.",
    no_args_is_help=False,
)
JobId = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20, url: Url = HERE
) -> None:
    """The newest jobs."""
    console = screen()
    with reporting_errors():
        page = GraftClient(url).jobs(limit)
    if not page.data:
        console.print("No jobs yet. graft finetune data.jsonl --name support-bot")
        return
    console.print(jobs_table(page.data))
    if page.has_more:
        console.print(
            f"There are more: graft jobs --limit {limit * 5}", style="dim", highlight=False
        )


@app.command("show")
def show_job(job_id: JobId, url: Url = HERE) -> None:
    """One job and what happened to it so far."""
    console = screen()
    with reporting_errors():
        client = GraftClient(url)
        job = client.job(job_id)
        console.print(job_table(job))
        for event in history(client, job_id):
            if event.type not in {"metrics", "progress"}:
                console.print(event_line(event))
    if not job.ended:
        console.print(Text(f"graft jobs follow {job.id}", style="dim"))


@app.command("follow")
def follow_job(job_id: JobId, url: Url = HERE) -> None:
    """Watch a job until it ends."""
    with reporting_errors():
        watch(GraftClient(url), job_id, screen())


@app.command("cancel")
def cancel_job(job_id: JobId, url: Url = HERE) -> None:
    """Stop a job. Nothing is published."""
    with reporting_errors():
        job = GraftClient(url).cancel(job_id)
    screen().print(Text(f"{job.id}: {job.status}"))


@app.command("pause")
def pause_job(job_id: JobId, url: Url = HERE) -> None:
    """Stop a job until it is resumed. What it has learned is kept."""
    with reporting_errors():
        job = GraftClient(url).pause(job_id)
    screen().print(Text(f"{job.id}: {job.status}"))


@app.command("resume")
def resume_job(job_id: JobId, url: Url = HERE) -> None:
    """Let a paused job go on, in its old place in the queue."""
    with reporting_errors():
        job = GraftClient(url).resume(job_id)
    screen().print(Text(f"{job.id}: {job.status}"))
