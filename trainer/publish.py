"""From a trained directory to a version: the gate, the manifest, the transaction."""

from pathlib import Path

from adapters.errors import LeaseLost
from adapters.ledger import Ledger
from adapters.manifest import MANIFEST_FILE, Manifest, TrainingResult, dump_manifest
from adapters.records import Gate, JobNote, Version


def publish(ledger: Ledger, note: JobNote, directory: Path, manifest: Manifest) -> Version:
    """Make the directory the next version of the job's adapter and settle the job.

    Raises:
        LeaseLost: the job was cancelled, or belongs to a later attempt; nothing was published.
        OSError: the files could not be stored.
    """
    job = note.job
    if ledger.jobs.lost(
        [job]
    ):  # a look is cheaper than bytes in the store that no version will name
        raise LeaseLost(f"Attempt {job.attempt} of {job.id} no longer holds the job.")
    # A new file, never the one that an earlier attempt may have given to the store. The store syncs it.
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    (directory / MANIFEST_FILE).write_text(dump_manifest(manifest))
    promote = passes_gate(job.spec.gate, manifest.result)
    return ledger.registry.publish(job, directory, manifest, promote=promote, note=note)


def passes_gate(gate: Gate, result: TrainingResult) -> bool:
    """Whether the version becomes the live one.

    `auto` asks that it predicts the held-out rows better than the base model does. Where the data was too small to hold
    rows out there is nothing to compare, and it passes: a user with thirty rows wants to see what they did.
    """
    if gate == "off" or result.valid_loss is None or result.base_valid_loss is None:
        return True
    return result.valid_loss < result.base_valid_loss
