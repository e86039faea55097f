"""What may be asked for of a base model, and how busy it is."""

from pydantic import BaseModel


class WireLimits(BaseModel):
    """An entry of `GET /v1/fine_tuning/model_limits`; OpenAI's three names first."""

    #: Most jobs that may wait, those of all base models together.
    max_total_jobs: int
    #: Those of all trainers that are there; None while none is.
    max_concurrent_jobs: int | None
    active_jobs: int
    queued_jobs: int
    max_lora_rank: int
    max_seq_length: int
    methods: list[str]
    #: None until the base model has been prepared.
    target_modules: list[str] | None
    min_examples: int
    #: How long one more job is likely to wait; None where jobs wait and nobody can tell.
    estimated_wait_seconds: float | None
