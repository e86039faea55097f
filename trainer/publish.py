"""From a trained directory to a version: the gate, the manifest, the transaction."""

import shutil
from pathlib import Path

from adapters.errors import LeaseLost
from adapters.ledger import Ledger
from adapters.manifest import MANIFEST_FILE, Manifest, TrainingResult, dump_manifest
from adapters.records import (
    Job,
    JobNote,
    Version,
)
from adapters.spec import Gate


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
    _declare(directory, manifest)
    promote = passes_gate(job.spec.gate, manifest.trained)
    return ledger.registry.publish(job, directory, manifest, promote=promote, note=note)


def keep(ledger: Ledger, job: Job, directory: Path, manifest: Manifest) -> None:
    """Make the directory a checkpoint of the job, and remove it.

    Raises:
        LeaseLost: the job was cancelled, or belongs to a later attempt; nothing was kept.
        OSError: the files could not be stored.
    """
    _declare(directory, manifest)
    ledger.checkpoints.keep(job, directory, manifest)
    shutil.rmtree(directory, ignore_errors=True)


def _declare(directory: Path, manifest: Manifest) -> None:
    # A new file, never the one that an earlier attempt may have given to the store. The store syncs it.
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    (directory / MANIFEST_FILE).write_text(dump_manifest(manifest))


def gate_result(gate: Gate, manifest: Manifest) -> str:
    """What the gate says of a version, in a word for the metrics."""
    result = manifest.trained
    if gate == "off":
        return "off"
    if result.published_valid_loss is None or result.base_valid_loss is None:
        return "not_compared"
    return "passed" if passes_gate(gate, result) else "held_back"


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
