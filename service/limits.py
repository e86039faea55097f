"""What may be asked for of each base model, how busy it is, and how many more jobs may wait."""

import math
from collections.abc import Callable, Sequence

from adapters.demand import QueueLoad
from adapters.errors import Unavailable
from adapters.ledger import Ledger
from adapters.manifest import BaseModelCard
from adapters.records import Priority
from service.schemas.limits import WireLimits
from service.schemas.method import METHODS
from service.settings import EngineSettings


class Limits:
    """Reads the ledger; routes call it in a thread."""

    def __init__(
        self,
        ledger: Ledger,
        engine: EngineSettings,
        *,
        base_models: Sequence[str],
        card_of: Callable[[str], BaseModelCard | None],
        most_waiting: int,
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._base_models = base_models
        self._card_of = card_of
        self._most_waiting = most_waiting

    def look(self) -> dict[str, WireLimits]:
        """By base model, for the ledger's tenant."""
        loads = self.loads()
        return {model_id: self._of(loads[model_id]) for model_id in self._base_models}

    def loads(self) -> dict[str, QueueLoad]:
        """How busy each base model is, also those that are not."""
        found = {load.base_model: load for load in self._ledger.queue.loads()}
        return {
            one: found.get(one, QueueLoad(base_model=one, queued=0, running=0, soonest_end=None))
            for one in self._base_models
        }

    def told(self) -> dict[str, str]:
        """The headers that come with a new job: how many more of its tenant may wait."""
        try:
            room = self._ledger.queue.room()
        except Unavailable:  # the job is durable, and its answer must not fail for a figure
            return {}
        headers = {
            "x-ratelimit-limit-jobs": str(room.limit),
            "x-ratelimit-remaining-jobs": str(room.left),
        }
        if room.next_in is not None:
            headers["x-ratelimit-reset-jobs"] = f"{math.ceil(room.next_in)}s"
        return headers

    def _of(self, load: QueueLoad) -> WireLimits:
        card = self._card_of(load.base_model)
        served = self._engine.max_model_len
        return WireLimits(
            max_total_jobs=self._most_waiting,
            max_concurrent_jobs=load.slots,
            active_jobs=load.running,
            queued_jobs=load.queued,
            max_lora_rank=self._engine.max_lora_rank,
            max_seq_length=min(served, card.max_seq_length) if card else served,
            methods=list(METHODS),
            target_modules=list(card.linear_modules) if card else None,
            min_examples=1,
            estimated_wait_seconds=self._ledger.queue.wait(
                load.base_model, priority=Priority.NORMAL
            ),
        )
