"""`python -m service`: serve HTTP until told to stop."""

import argparse
import sys

import uvicorn

from adapters.errors import GraftError
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings
from service.app import Configuration, create_app
from service.settings import EngineSettings, ServiceSettings, WebhookSettings


def main() -> None:
    """Parse the command line, read the settings, serve."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        configure(LogSettings())
        settings = ServiceSettings(**given)
        app = create_app(
            Configuration(LedgerSettings(), settings, EngineSettings(), WebhookSettings())
        )
    except GraftError as error:
        sys.exit(f"graft: {error}")
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        # A stream that is being read is given this long at a shutdown.
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
