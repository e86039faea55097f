"""`graft preview`, and what `graft finetune --dry-run` shows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli.client import GraftClient
from cli.commands.shared import HERE, Url, reporting_errors, screen
from cli.render import duration, facts
from cli.wire import Estimate, Memory, PreviewRow

GIB, MIB = 2**30, 2**20
#: Around what is trained: colour alone is lost in files, and on some eyes.
OPENS, CLOSES = "⟦", "⟧"


def preview(
    data: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="The dataset, one JSON object a line."
        ),
    ],
    *,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, max=20, help="How many.")] = 3,
    base_model: Annotated[str | None, typer.Option(help="Id of the base model.")] = None,
    url: Url = HERE,
) -> None:
    """Show rows as training will see them: the chat template applied, what is trained in ⟦brackets⟧."""
    fields = {"n": str(rows)} | ({"base_model": base_model} if base_model else {})
    console = screen()
    with reporting_errors():
        for row in GraftClient(url).preview(data, fields).rows:
            console.print(_heading(row))
            console.print(_marked(row), soft_wrap=True)
            console.print()


def show_estimate(estimate: Estimate, console: Console) -> None:
    """What a job would come to, and what to think about first."""
    about = "about " if estimate.sampled else ""
    console.print(
        facts(
            [
                ("base model", estimate.model),
                ("method", estimate.method or "-"),
                ("rows", ", ".join(_rows(estimate))),
                ("steps", _steps(estimate)),
                ("tokens", f"{about}{_count(estimate.tokens)}"),
                ("trained tokens", f"{about}{_count(estimate.trained_tokens)}"),
                ("longest row", f"{_count(estimate.longest)} tokens"),
                ("time", _time(estimate)),
                ("wait", duration(estimate.queue_wait_seconds)),
                ("memory", _memory(estimate.memory)),
                ("fits", {True: "yes", False: "no", None: "-"}[estimate.fits]),
                ("settings", _settings(estimate)),
            ]
        )
    )
    for warning in estimate.warnings:
        console.print(Text(f"\n{warning.message}", style="yellow"), soft_wrap=True)


def _rows(estimate: Estimate) -> Iterator[str]:
    yield f"{_count(estimate.train_rows)} to train on"
    yield f"{_count(estimate.valid_rows)} held out"
    if estimate.dropped_rows:
        yield f"{_count(estimate.dropped_rows)} too long and left out"
    if estimate.dataset and estimate.dataset.duplicates:
        yield f"{_count(estimate.dataset.duplicates)} duplicates"


def _steps(estimate: Estimate) -> str:
    epochs = estimate.hyperparameters.get("n_epochs", "?")
    return f"{estimate.steps:,} ({epochs} epochs of {_count(estimate.steps_per_epoch)})"


def _time(estimate: Estimate) -> str:
    if estimate.duration_seconds is None:
        return "-"
    basis = {"measured": "as recent jobs reached", "assumed": "assumed: nothing was trained yet"}
    told = basis.get(estimate.duration_basis or "", estimate.duration_basis)
    return f"about {duration(estimate.duration_seconds)}, at {estimate.tokens_per_second:,.0f} tokens/s ({told})"


def _memory(memory: Memory | None) -> str:
    if memory is None:
        return "-"
    return (
        f"{_size(memory.adapter_bytes)} for the adapter's {memory.adapter_parameters:,} parameters, about "
        f"{_size(memory.activation_bytes)} while it computes, beside the base model"
    )


def _settings(estimate: Estimate) -> str:
    given = {name: value for name, value in estimate.hyperparameters.items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "-"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _heading(row: PreviewRow) -> Text:
    side = f", {row.side}" if row.side else ""
    told = f"line {row.line}{side}: {row.num_tokens:,} tokens, {row.num_trained_tokens:,} trained"
    if row.too_long:
        told += "; too long, and left out"
    if row.truncated:
        told += f"; the first {len(row.tokens):,} are shown"
    return Text(told, style="yellow" if row.too_long else "dim")


def _marked(row: PreviewRow) -> Text:
    """The row's text. Tokens are pieces of it, so that they are put together without anything between them."""
    text, at = Text(), 0
    for span in row.trained_spans:
        text.append("".join(row.tokens[at : span.start]))
        weight = "" if span.weight == 1 else f"{span.weight:g}:"
        trained = "".join(row.tokens[span.start : span.stop])
        text.append(f"{OPENS}{weight}{trained}{CLOSES}", style="green")
        at = span.stop
    return text.append("".join(row.tokens[at:]))
