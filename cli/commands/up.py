"""`graft up`."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.shared import screen
from cli.launcher.child import ChildSpec
from cli.launcher.home import Home, HomeUnusable
from cli.launcher.readiness import Readiness
from cli.launcher.report import Report
from cli.launcher.supervisor import Supervisor
from cli.launcher.table import NotConfigured, Plan, TrainerKind, process_table, read_plan, require
from cli.settings import child_environment

WELCOME = """
Everything is ready. Try:

  curl {url}/v1/chat/completions -H 'content-type: application/json'{key} \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

  graft finetune data.jsonl --name support-bot
"""
#: Where keys are on: what the request needs, and where it comes from.
WITH_KEY = ' -H "authorization: Bearer $GRAFT_API_KEY"'
FIRST_KEY = "\n  GRAFT_API_KEY=$(graft keys create --tenant default); export GRAFT_API_KEY\n"


def up(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [default: 8000]")] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder that everything is kept in.  [default: ~/.graft]"),
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option(
            "--auth/--no-auth",
            help="Ask for API keys; needed on other addresses than this machine's own.",
        ),
    ] = None,
    trainer: Annotated[
        TrainerKind,
        typer.Option(help="Who places trainers: this machine alone, or Ray (trainer.ray)."),
    ] = TrainerKind.LOCAL,
) -> None:
    """Start service, engines and trainer on this machine, and keep them running until Ctrl-C."""
    console = screen()
    os.umask(0o077)  # the home, with everybody's data in it, is its user's alone
    given = home.expanduser().absolute() if home else None
    try:
        require(trainer)
        plan = read_plan(child_environment(given, host, port, auth=auth))
        folder = Home(plan.home)
        with folder.lock():
            environment = child_environment(plan.home, plan.host, plan.port, auth=auth)
            url = f"http://{_reachable(plan.host)}:{plan.port}"
            report = Report(console)
            report.line("none", f"home {folder.folder}, logs in {folder.folder / 'logs'}")
            readiness = Readiness(url, report, _welcome(url, plan))
            table = process_table(plan.base_models, trainer=trainer)
            asyncio.run(supervise(table, folder, environment, report, readiness))
    except (HomeUnusable, NotConfigured) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


async def supervise(
    specs: Sequence[ChildSpec],
    home: Home,
    environment: Mapping[str, str],
    report: Report,
    readiness: Readiness | None = None,
) -> None:
    """Run the table until a signal comes; returns when everything has ended."""
    supervisor = Supervisor(specs, home, report, environment=environment)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    watching = asyncio.create_task(readiness.watch()) if readiness else None
    try:
        await supervisor.run()
    finally:
        if watching:
            watching.cancel()


def _welcome(url: str, plan: Plan) -> str:
    told = WELCOME.format(url=url, model=plan.base_models[0], key=WITH_KEY if plan.auth else "")
    return told.replace("Try:\n", f"Try:\n{FIRST_KEY}") if plan.auth else told


def _reachable(host: str) -> str:
    """Where a client on this machine finds a service that listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  compared, not bound
