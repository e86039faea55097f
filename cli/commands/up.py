"""`graft up`."""

import asyncio
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
from cli.launcher.table import NoEngines, base_models, process_table
from cli.settings import HOME_VARIABLE, HOST_VARIABLE, PORT_VARIABLE, child_environment

WELCOME = """
Everything is ready. Try:

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

  graft finetune data.jsonl --name support-bot
"""


def up(
    host: Annotated[
        str, typer.Option(envvar=HOST_VARIABLE, help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar=PORT_VARIABLE, help="Port to listen on.")] = 8000,
    home: Annotated[
        Path, typer.Option(envvar=HOME_VARIABLE, help="Folder that everything is kept in.")
    ] = Path("~/.graft"),
) -> None:
    """Start service, engines and trainer on this machine, and keep them running until Ctrl-C."""
    console = screen()
    folder = Home(home.expanduser().absolute())
    environment = child_environment(folder.folder, host, port)
    url = f"http://{_reachable(host)}:{port}"
    try:
        with folder.lock():
            models = base_models(environment)
            report = Report(console)
            report.line("none", f"home {folder.folder}, logs in {folder.folder / 'logs'}")
            readiness = Readiness(url, report, WELCOME.format(url=url, model=models[0]))
            asyncio.run(supervise(process_table(models), folder, environment, report, readiness))
    except (HomeUnusable, NoEngines) as error:
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


def _reachable(host: str) -> str:
    """Where a client on this machine finds a service that listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  compared, not bound
