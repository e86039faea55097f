"""API keys, made and revoked in the ledger itself, by a process that may read it: the command line may not."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.client import Refused
from cli.settings import child_environment
from cli.wire import ApiKey


def create(
    home: Path | None, *, tenant: str, scopes: Sequence[str], name: str, seconds: int | None
) -> ApiKey:
    """Make a key. Raises Refused."""
    words = ["create", f"--tenant={tenant}", f"--name={name}"]
    words += [f"--scope={scope}" for scope in scopes]
    if seconds is not None:
        words.append(f"--expires-in-seconds={seconds}")
    return ApiKey.model_validate(_ask(home, words))


def list_all(home: Path | None, tenant: str | None) -> list[ApiKey]:
    """The newest keys, of one tenant or of all. Raises Refused."""
    found = _ask(home, ["list", *([f"--tenant={tenant}"] if tenant else [])])
    return [ApiKey.model_validate(one) for one in found]


def revoke(home: Path | None, key_id: str) -> ApiKey:
    """Make a key good for nothing. Raises Refused."""
    return ApiKey.model_validate(_ask(home, ["revoke", "--", key_id]))


def _ask(home: Path | None, words: Sequence[str]) -> Any:
    command = [sys.executable, "-m", "service.keys", *words]
    environment = child_environment(home)
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if told.returncode:
        raise Refused(told.stderr.strip().rpartition("\n")[2] or "the ledger could not be asked")
    return json.loads(told.stdout)
