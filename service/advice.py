"""What a person who has fine-tuned before would say about a request, before anything is computed."""

from collections.abc import Iterator

from adapters.datasets import DatasetReport
from adapters.spec import TrainingSpec
from service.forecast import Plan
from service.schemas.looking import WireWarning
from service.schemas.method import usual_rate

#: Below this many distinct rows an adapter learns the rows rather than what they have in common.
_FEW_ROWS = 10
#: Below this many steps a run is hardly out of its warm-up.
_FEW_STEPS = 20
#: How far from the usual learning rate is far.
_FAR = 10.0
#: An adapter holds some two bits a parameter, and a trained token of text brings about one (Schulman et al., "LoRA
#: Without Regret", 2025): above 2 tokens a parameter it is full. Far below, it has room to learn each row by heart.
_FULL, _EMPTY = 2.0, 1e-4


def about_rows(report: DatasetReport) -> Iterator[WireWarning]:
    """Of the data alone."""
    distinct = report.rows - report.duplicates
    if report.valid and distinct < _FEW_ROWS:
        yield _warning(
            "few_rows",
            f"{_count(distinct, 'distinct row')}: an adapter will know these rows, and little else. A few dozen "
            "that say the same things in different words teach more.",
        )
    if report.duplicates:
        repeat = (
            "row repeats an earlier one" if report.duplicates == 1 else "rows repeat earlier ones"
        )
        yield _warning(
            "duplicates",
            f"{report.duplicates:,} {repeat}, up to white space. Training leaves duplicates out.",
        )
    if report.ignored_fields:
        yield _warning(
            "ignored_fields",
            f"These fields of the data are not used: {', '.join(report.ignored_fields)}.",
        )


def about_length(dropped: int, max_seq_length: int) -> Iterator[WireWarning]:
    """Of rows that are too long."""
    if dropped:
        yield _warning(
            "rows_too_long",
            f"About {_count(dropped, 'row')} of more than {max_seq_length:,} tokens (max_seq_length) will be left out: "
            "rows are never cut. Shorten or split them.",
        )


def about_settings(spec: TrainingSpec, plan: Plan) -> Iterator[WireWarning]:
    """Of how the rows would be trained on."""
    rate, usual = spec.optimizer.learning_rate, usual_rate(spec.method)
    if rate > _FAR * usual:
        yield _warning(
            "learning_rate_high",
            f"learning_rate {rate:g} is {rate / usual:.0f} times the usual {usual:g}: training may diverge.",
        )
    if rate < usual / _FAR:
        yield _warning(
            "learning_rate_low",
            f"learning_rate {rate:g} is a {usual / rate:.0f}th of the usual {usual:g}: little will be learned.",
        )
    if plan.steps < _FEW_STEPS:
        yield _warning(
            "few_steps",
            f"The whole job is {_count(plan.steps, 'step')} ({_count(spec.n_epochs, 'epoch')} of "
            f"{plan.steps_per_epoch}). Raise n_epochs, or lower batch_size; left out, both are chosen for about 120.",
        )
    if plan.valid_rows == 0:
        yield _warning(
            "nothing_held_out",
            "No rows are held out, so that nothing can tell learning from learning by heart: there is no early stopping, "
            "and the gate lets every version through. Send validation_data, or set validation_split.",
        )


def about_capacity(parameters: int, trained_tokens: int) -> Iterator[WireWarning]:
    """Of an adapter with so many parameters, for data with so many trained tokens."""
    told = (
        f"The adapter has {parameters:,} parameters and the data {trained_tokens:,} trained tokens"
    )
    if trained_tokens > _FULL * parameters:
        yield _warning("adapter_small", f"{told}: more than it can hold. Raise lora.rank.")
    if trained_tokens < _EMPTY * parameters:
        yield _warning(
            "adapter_large",
            f"{told}: room enough to learn every row by heart. A lower lora.rank, or more data, generalises better.",
        )


def uncounted(reason: str) -> WireWarning:
    """That there are no figures in tokens, and why."""
    return _warning("not_counted", f"Nothing could be counted in tokens: {reason}")


def memory_short(needed: int, available: int) -> WireWarning:
    """That a job would not fit."""
    return _warning(
        "memory_short",
        f"The job needs about {needed / 2**30:.1f} GiB beside the base model, and the machine has "
        f"{available / 2**30:.1f} GiB to give. Lower lora.rank, or leave the longest rows out.",
    )


def _warning(code: str, message: str) -> WireWarning:
    return WireWarning(code=code, message=message)


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"
