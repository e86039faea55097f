"""`python -m service.keys`: make, list and revoke API keys in the ledger itself. Tells what it did as JSON.

What `graft keys` calls. The first key cannot be asked for over HTTP, since that would need a key.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from adapters.durable import keep_private
from adapters.errors import GraftError
from adapters.ledger import KeyCabinet, open_ledger
from adapters.settings import LedgerSettings
from service.schemas.fields import checked
from service.schemas.keys import KeyOptions, wire_key, wire_made_key

_MOST_LISTED = 1000


def main() -> None:
    """Parse the command line and do as it says."""
    keep_private()
    parser = argparse.ArgumentParser(prog="python -m service.keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create")
    create.add_argument("--tenant", required=True)
    create.add_argument("--scope", action="append", dest="scopes", required=True)
    create.add_argument("--name", default="")
    create.add_argument("--expires-in-seconds", type=int)
    listing = commands.add_parser("list")
    listing.add_argument("--tenant")
    revoke = commands.add_parser("revoke")
    revoke.add_argument("id")
    arguments = vars(parser.parse_args())
    try:
        with _cabinet() as cabinet:
            print(_done(arguments.pop("command"), arguments, cabinet))
    except GraftError as error:
        sys.exit(error.message)


@contextmanager
def _cabinet() -> Iterator[KeyCabinet]:
    ledger = open_ledger(LedgerSettings())
    try:
        yield ledger.keys
    finally:
        ledger.close()


def _done(command: str, arguments: dict[str, object], cabinet: KeyCabinet) -> str:
    if command == "create":
        options = checked(KeyOptions, arguments, where="graft keys create")
        return wire_made_key(cabinet.make(options.new_key())).model_dump_json()
    if command == "revoke":
        return wire_key(cabinet.revoke(str(arguments["id"]))).model_dump_json()
    tenant = arguments["tenant"]
    found = cabinet.list(tenant=str(tenant) if tenant else None, limit=_MOST_LISTED)
    return json.dumps([wire_key(key).model_dump(mode="json") for key in found])


if __name__ == "__main__":
    main()
