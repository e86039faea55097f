"""`python -m adapters migrate`: bring the database to the schema of this release, then exit.

Whoever opens the ledger does the same. Where many processes are rolled out together, one that does nothing else goes
first.
"""

import argparse
import logging
import sys

from adapters.errors import GraftError
from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(prog="python -m adapters", description=__doc__)
    parser.add_argument("action", choices=["migrate"])
    parser.parse_args()
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO
    )
    try:
        open_ledger(LedgerSettings()).close()
    except GraftError as error:
        sys.exit(f"graft: {error}")
    print("The database has the schema of this release.")


if __name__ == "__main__":
    main()
