"""`python -m service`: serve HTTP until told to stop."""

import argparse
import sys

import uvicorn

from adapters.durable import keep_private
from adapters.errors import GraftError
from adapters.heap import share_arenas
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings, TelemetrySettings
from service.app import Configuration, create_app
from service.listening import http_options
from service.settings import EngineSettings, ServiceSettings, WebhookSettings


def main() -> None:
    """Parse the command line, read the settings, serve."""
    keep_private()
    share_arenas()
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        telemetry = TelemetrySettings()
        configure(LogSettings(), traced=telemetry.on)
        settings = ServiceSettings(**given)
        app = create_app(
            Configuration(
                LedgerSettings(),
                settings,
                EngineSettings(),
                WebhookSettings(),
                telemetry=telemetry,
            )
        )
    except GraftError as error:
        sys.exit(f"graft: {error}")
    uvicorn.run(app, host=settings.host, port=settings.port, **http_options(settings))


if __name__ == "__main__":
    main()
