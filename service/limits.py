"""What may be asked for of each base model, and how busy it is."""

from collections.abc import Callable, Sequence

from adapters.demand import QueueLoad
from adapters.ledger import JobQueue
from adapters.manifest import BaseModelCard
from service.schemas.limits import WireLimits
from service.schemas.method import METHODS
from service.settings import EngineSettings


class Limits:
    """Reads the ledger; routes call it in a thread."""

    def __init__(
        self,
        jobs: JobQueue,
        engine: EngineSettings,
        *,
        base_models: Sequence[str],
        card_of: Callable[[str], BaseModelCard | None],
        most_waiting: int,
    ) -> None:
        self._jobs = jobs
        self._engine = engine
        self._base_models = base_models
        self._card_of = card_of
        self._most_waiting = most_waiting

    def look(self) -> dict[str, WireLimits]:
        """By base model."""
        loads = {load.base_model: load for load in self._jobs.loads()}
        idle = QueueLoad(base_model="", queued=0, running=0, soonest_end=None)
        return {
            model_id: self._of(model_id, loads.get(model_id, idle))
            for model_id in self._base_models
        }

    def _of(self, base_model: str, load: QueueLoad) -> WireLimits:
        card = self._card_of(base_model)
        served = self._engine.max_model_len
        return WireLimits(
            max_total_jobs=self._most_waiting,
            max_concurrent_jobs=None,
            active_jobs=load.running,
            queued_jobs=load.queued,
            max_lora_rank=self._engine.max_lora_rank,
            max_seq_length=min(served, card.max_seq_length) if card else served,
            methods=list(METHODS),
            target_modules=list(card.linear_modules) if card else None,
            min_examples=1,
            # A job that nobody is before starts at once: it is taken in beside those that are training.
            estimated_wait_seconds=load.soonest_end if load.queued else 0.0,
        )
