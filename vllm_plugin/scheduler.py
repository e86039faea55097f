"""vLLM's scheduler, which lets a question come along with the comparison that is made for it."""

import time
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler

#: How long a comparison waits for the question behind it. On one machine they come 1 to 2 ms apart.
GATHER_S = 0.003


class GatheringScheduler(Scheduler):
    """Facts of release 0.32: `vllm/v1/core/sched/scheduler.py`, `vllm/v1/engine/core.py` (`_process_engine_step`).

    Whoever asks for the log-probabilities of a prompt mostly compares a new adapter with its training, and the first
    question to that adapter is on its way. One step of both takes some 40 ms less than two on a CPU (bench/LOG.md).
    Nobody else waits: not where something else is computed anyway, and no other request.
    """

    _since: tuple[str, float] = ("", 0.0)

    def schedule(self, *args: Any, **options: Any) -> SchedulerOutput:
        """As vLLM's, but nothing for a moment where the only request is a comparison that has just come."""
        if self._gathers():
            return SchedulerOutput.make_empty()  # it sleeps for 1 ms, and looks who has come
        return super().schedule(*args, **options)

    def _gathers(self) -> bool:
        if self.running or len(self.waiting) != 1:
            return False
        (request,) = self.waiting
        parameters = request.sampling_params
        if parameters is None or parameters.prompt_logprobs is None:
            return False
        if self._since[0] != request.request_id:
            self._since = request.request_id, time.monotonic()
        return time.monotonic() - self._since[1] < GATHER_S
