"""What the log of a job says of each report: the words of `fine_tuning.job.event`."""

from adapters.manifest import TrainingResult
from adapters.records import EventKind, JobError, NewEvent
from trainer.messages import Checkpointed, Evaluated, Started, Stepped


def started(report: Started) -> list[NewEvent]:
    """How the data was divided, and whatever the user should know about it."""
    resumed = report.resumed_from_step
    rows = f"{report.train_rows} rows to train on, {report.valid_rows} held out"
    message = f"Continuing after step {resumed}: {rows}" if resumed else f"Training begins: {rows}"
    data = {
        "total_steps": report.total_steps,
        "train_rows": report.train_rows,
        "valid_rows": report.valid_rows,
        "dropped_rows": report.dropped_rows,
        "tokens_per_epoch": report.tokens_per_epoch,
        "trained_tokens_per_epoch": report.trained_tokens_per_epoch,
        "resumed_from_step": resumed,
    }
    warnings = [
        NewEvent(kind=EventKind.MESSAGE, level="warn", message=warning)
        for warning in report.warnings
    ]
    return [NewEvent(kind=EventKind.STATUS, message=message, data=data), *warnings]


def stepped(report: Stepped) -> NewEvent:
    """Loss, accuracy and speed at a step."""
    progress = report.progress
    loss = "-" if progress.train_loss is None else f"{progress.train_loss:.4f}"
    return NewEvent(
        kind=EventKind.METRICS,
        message=f"Step {progress.step}/{progress.total_steps}: training loss={loss}",
        data={
            "step": progress.step,
            "total_steps": progress.total_steps,
            "percent": round(progress.percent, 2),
            "epoch": round(progress.epoch, 3),
            "train_loss": progress.train_loss,
            "train_mean_token_accuracy": progress.train_accuracy,
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "tokens_per_second": progress.tokens_per_second,
            "eta_seconds": progress.eta_seconds,
        },
    )


def evaluated(report: Evaluated, total_steps: int) -> NewEvent:
    """Held-out loss at a step, and how many target tokens are the likeliest."""
    best = ", the best so far" if report.best else ""
    return NewEvent(
        kind=EventKind.METRICS,
        message=f"Step {report.step}/{total_steps}: validation loss={report.valid_loss:.4f}{best}",
        data={
            "step": report.step,
            "total_steps": total_steps,
            "valid_loss": report.valid_loss,
            "valid_mean_token_accuracy": report.accuracy,
            # All that is held out is looked at each time: OpenAI's word for that.
            "full_valid_loss": report.valid_loss,
            "full_valid_mean_token_accuracy": report.accuracy,
            "base_valid_loss": report.base_valid_loss,
            "best": report.best,
        },
    )


def checkpointed(report: Checkpointed) -> NewEvent:
    """A place from which a new attempt would continue."""
    return NewEvent(
        kind=EventKind.CHECKPOINT,
        message=f"Training state saved at step {report.step}",
        data={"step": report.step},
    )


def finished(result: TrainingResult) -> list[NewEvent]:
    """What training on a quantised base model cost; nothing to say where it was not quantised or nothing held out."""
    trained, served = result.valid_loss, result.served_valid_loss
    if trained is None or served is None:
        return []
    base = (
        ""
        if result.base_valid_loss is None
        else f"; the base model alone {result.base_valid_loss:.4f}"
    )
    return [
        NewEvent(
            kind=EventKind.MESSAGE,
            message=(
                f"Trained on the base model in {result.quantization}, with a validation loss of {trained:.4f} there. "
                f"Served on the unquantised base model: {served:.4f}, a gap of {served - trained:+.4f}{base}"
            ),
            data={
                "quantization": result.quantization,
                "valid_loss": trained,
                "served_valid_loss": served,
                "base_valid_loss": result.base_valid_loss,
            },
        )
    ]


def waiting() -> NewEvent:
    """Why nothing happens."""
    return NewEvent(
        kind=EventKind.MESSAGE,
        level="warn",
        message="The artifact store does not answer; what was trained is stored as soon as it does",
    )


def timed_out(seconds: float) -> JobError:
    """What a job fails with that was in training for too long."""
    message = f"The job has been in training for {seconds:.0f} s, and may not be for longer."
    return JobError(code="timeout", message=message)
