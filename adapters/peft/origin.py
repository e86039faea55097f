"""What another graft says of an adapter that it has made: `graft.json`, as a download has it beside the weights."""

from pathlib import Path

from adapters.manifest import MANIFEST_FILE, BaseModelCard, load_manifest
from adapters.peft.flaws import Flaw, refusal


def take_origin(directory: Path, card: BaseModelCard, *, vouched: str | None) -> None:
    """Compare the base model that it was trained on with ours, by its bytes, and remove the file.

    The version gets a manifest of its own: probes and losses of strangers are hearsay.

    Args:
        directory: the adapter's, ours to change.
        card: of our base model.
        vouched: what the adapter may call its base model, since whoever brings it says so.

    Raises:
        InvalidAdapter: it was trained on another base model, or the file cannot be read.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        return
    raw = path.read_bytes()
    path.unlink()
    try:
        base = load_manifest(raw.decode()).base
    except ValueError as error:
        raise refusal(
            Flaw.CONFIG_UNREADABLE,
            f"The {MANIFEST_FILE} beside adapter_config.json cannot be read. Leave it out.",
        ) from error
    if base.digest != card.digest and base.id != vouched:
        raise refusal(
            Flaw.WRONG_BASE_MODEL,
            f"{MANIFEST_FILE} says that the adapter was trained on {base.id!r:.200} with the digest {base.digest!r:.80}, and "
            f"{card.id} has {card.digest}. If it shall be served on that all the same, say so: send the name in "
            "'trained_on'.",
        )
