"""What an engine loads and a job continues: a version, or a checkpoint of a job on its way to one."""

from dataclasses import dataclass
from typing import TypeAlias

from adapters.manifest import Manifest
from adapters.records import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A job's adapter as it was after `step`; answers to its name as a version does."""

    id: str
    job_id: str
    adapter: str
    base_model: str
    step: int
    #: `ft:{base model}:graft:{adapter}:{end of the job's id}:ckpt-step-{N}`
    name: str
    digest: str
    manifest: Manifest
    created_at: float

    @property
    def metrics(self) -> dict[str, float]:
        """What is known of it, in the words of OpenAI's checkpoints. All held-out rows are looked at each time."""
        result = self.manifest.trained
        held_out = result.published_valid_loss
        found = {
            "train_loss": result.train_loss,
            "train_mean_token_accuracy": result.train_accuracy,
            "valid_loss": held_out,
            "valid_mean_token_accuracy": result.valid_accuracy,
            "full_valid_loss": held_out,
            "full_valid_mean_token_accuracy": result.valid_accuracy,
            "base_valid_loss": result.base_valid_loss,
            "reward_accuracy": result.reward_accuracy,
        }
        return {"step": self.step} | {k: v for k, v in found.items() if v is not None}


#: What an engine loads, and what a job may continue.
Weights: TypeAlias = Version | Checkpoint
