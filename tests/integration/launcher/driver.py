"""A launcher with a table of the test's own: python driver.py HOME TABLE_AS_JSON [GRACE]."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from cli.launcher.child import ChildSpec
from cli.launcher.home import Home
from cli.launcher.report import Report
from cli.launcher.supervisor import Supervisor
from cli.settings import child_environment


async def main() -> None:
    home = Home(Path(sys.argv[1]))
    specs = [
        ChildSpec(name=name, command=(sys.executable, "-c", code), stage=stage)
        for stage, (name, code) in enumerate(json.loads(sys.argv[2]).items())
    ]
    grace = float(sys.argv[3]) if len(sys.argv) > 3 else 20.0
    environment = child_environment(home.folder, "127.0.0.1", 8000)
    with home.lock():
        supervisor = Supervisor(
            specs, home, Report(Console()), environment=environment, grace=grace
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
        await supervisor.run()


asyncio.run(main())
