"""What is said of a job that cannot go on: what happened, and what helps."""

from trainer.warm.budget import TokenBudget
from trainer.warm.job import PATIENCE_WITH_NAN, Job

DIVERGED = (
    f"The gradient was not finite {PATIENCE_WITH_NAN} steps in a row. "
    "A lower learning rate helps most often; the default is 2e-4."
)


NOT_A_NUMBER = (
    "The adapter was trained on a quantised base model, and on the base model that it would be served on its held-out "
    "loss is not a number. Train it with trainer.quantization: none."
)


def does_not_fit(tokens: int, budget: TokenBudget, job: Job) -> str:
    """What was tried, with numbers, and what helps, best first."""
    sample, tried = "sample", ", gradient checkpointing included"
    if job.evaluation is not None:  # which has no gradient
        sample, tried = "held-out sample", ""
    return (
        f"One {sample} of {tokens} tokens does not fit into memory{tried}."
        f"{budget.numbers()} What helps, best first: a lower max_seq_length (it is "
        f"{job.spec.max_seq_length}), fewer jobs at once (trainer.max_jobs), a lower rank (it is "
        f"{job.spec.lora.rank}), a smaller base model."
    )
