"""Signatures as Standard Webhooks has them (https://www.standardwebhooks.com), which OpenAI's SDK verifies."""

import base64
import binascii
import hashlib
import hmac
import secrets as random
from collections.abc import Sequence

from adapters.errors import InvalidValue

_PREFIX = "whsec_"
_BYTES = 32
_FEWEST, _MOST = 24, 64


def new_secret() -> str:
    """A fresh secret of 32 random bytes."""
    return _PREFIX + base64.b64encode(random.token_bytes(_BYTES)).decode()


def check_secret(secret: str, *, param: str) -> str:
    """Return `secret` if it can sign.

    Raises:
        InvalidValue: it is not `whsec_` and the base64 of 24 to 64 bytes.
    """
    try:
        length = len(_key(secret))
    except (ValueError, binascii.Error):
        length = 0
    if not secret.startswith(_PREFIX) or not _FEWEST <= length <= _MOST:
        raise InvalidValue(
            f"{param} must be '{_PREFIX}' followed by the base64 of {_FEWEST} to {_MOST} random bytes. "
            "Leave it out, and one is made.",
            param=param,
        )
    return secret


def signed_headers(
    secrets: Sequence[str], *, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers that let a receiver check who sent the body, when, and that it is whole."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        base64.b64encode(hmac.new(_key(secret), content, hashlib.sha256).digest()).decode()
        for secret in secrets
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
