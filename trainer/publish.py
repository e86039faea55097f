"""From a trained directory to a version: the gate, the manifest, the transaction."""

from pathlib import Path

from adapters.durable import write_text
from adapters.ledger import Ledger
from adapters.manifest import MANIFEST_FILE, Manifest, TrainingResult, dump_manifest
from adapters.records import Gate, Job, Version


def publish(ledger: Ledger, job: Job, directory: Path, manifest: Manifest) -> Version:
    """Make the directory the next version of the job's adapter and settle the job.

    Raises:
        LeaseLost: the job was cancelled, or belongs to a later attempt; nothing was published.
    """
    write_text(directory / MANIFEST_FILE, dump_manifest(manifest))
    promote = passes_gate(job.spec.gate, manifest.result)
    return ledger.registry.publish(job, directory, manifest, promote=promote)


def passes_gate(gate: Gate, result: TrainingResult) -> bool:
    """Whether the version becomes the live one.

    `auto` asks that it predicts the held-out rows better than the base model does. Where the data was too small to hold
    rows out there is nothing to compare, and it passes: a user with thirty rows wants to see what they did.
    Both losses are those of the base model as it is served, also where training held it in fewer bits.
    """
    valid_loss, base_valid_loss = result.published_valid_loss, result.base_valid_loss
    if gate == "off" or valid_loss is None or base_valid_loss is None:
        return True
    return valid_loss < base_valid_loss
