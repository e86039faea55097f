"""Wire objects as text and tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from rich.table import Table
from rich.text import Text

from cli.wire import Adapter, ApiKey, Job, JobEvent, Problem, Progress, Version

STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "running": "cyan",
}
MINUTE, HOUR = 60, 3600


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`; `-` if nobody knows."""
    if seconds is None:
        return "-"
    whole = round(max(seconds, 0))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02} min"


def number(value: float | None, digits: int = 3) -> str:
    """With so many decimals; `-` if there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def moment(created: int | datetime | None) -> str:
    """Local time, to the second."""
    if created is None:
        return "-"
    when = (
        created if isinstance(created, datetime) else datetime.fromtimestamp(created).astimezone()
    )
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def status(job: Job) -> Text:
    """What it is doing now, in colour."""
    words = job.status
    if job.status == "queued" and job.queue and job.queue.position:
        words = f"queued, number {job.queue.position}"
    elif job.phase and not job.ended and job.phase != job.status:
        words = job.phase
    return Text(words, style=STYLES.get(job.status, ""))


def jobs_table(jobs: Iterable[Job]) -> Table:
    """One line for each job."""
    table = _table("job", "adapter", "status", "%>", "loss>", "held-out>", "left>", "created")
    for job in jobs:
        progress = job.progress or Progress()
        table.add_row(
            job.id,
            job.made or job.adapter_name or "-",
            status(job),
            f"{progress.percent:.0f}",
            number(progress.train_loss),
            number(progress.valid_loss),
            "-" if job.ended else duration(progress.eta_seconds),
            moment(job.created_at),
        )
    return table


def job_table(job: Job) -> Table:
    """One job, a line for each thing known of it."""
    progress = job.progress or Progress()
    rows: list[tuple[str, str | Text]] = [
        ("job", job.id),
        ("status", status(job)),
        ("adapter", job.made or job.adapter_name or "-"),
        ("base model", job.model or "-"),
        (
            "progress",
            f"{progress.percent:.0f} %, step {progress.step} of {progress.total_steps or '?'}",
        ),
        ("loss", number(progress.train_loss)),
        (
            "held-out loss",
            f"{number(progress.valid_loss)} (base model {number(progress.base_valid_loss)})",
        ),
        *_pairs(progress),
        ("trained tokens", str(job.trained_tokens or progress.tokens_seen or "-")),
        ("method", (job.method.type if job.method else None) or "-"),
        ("settings", _settings(job)),
        ("created", moment(job.created_at)),
        ("finished", moment(job.finished_at)),
    ]
    if job.error:
        rows.append(("error", Text(f"{job.error.code}: {job.error.message}", style="red")))
    return facts(rows)


def _pairs(progress: Progress) -> list[tuple[str, str | Text]]:
    if progress.reward_accuracy is None:
        return []
    return [("reward accuracy", f"{progress.reward_accuracy:.0%} of the held-out pairs")]


def _settings(job: Job) -> str:
    given = {key: value for key, value in job.hyperparameters.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in given.items()) or "-"


def event_line(event: JobEvent) -> Text:
    """A job event as a line of text."""
    style = {"warn": "yellow", "error": "red"}.get(event.level, "")
    return Text(f"{moment(event.created_at)}  {event.message or event.type}", style=style)


def adapters_table(adapters: Iterable[Adapter]) -> Table:
    """One line for each adapter."""
    table = _table("adapter", "live", "versions>", "base model", "held-out>", "base's>", "trained")
    for adapter in adapters:
        live = next((one for one in adapter.versions if _id(one) == adapter.live), None)
        table.add_row(
            adapter.name,
            adapter.live or "-",
            str(len(adapter.versions)),
            adapter.base_model or "-",
            number(live.valid_loss if live else None),
            number(live.base_valid_loss if live else None),
            moment(live.created_at if live else None),
        )
    return table


def keys_table(keys: Iterable[ApiKey]) -> Table:
    """One line for each key."""
    table = _table("id", "tenant", "name", "scopes", "key", "made", "last used", "until")
    for one in keys:
        until = "revoked" if one.revoked_at is not None else moment(one.expires_at)
        table.add_row(
            *(one.id, one.tenant, one.name, ", ".join(one.scopes), one.hint),
            *(moment(one.created_at), moment(one.last_used_at), until),
        )
    return table


def versions_table(adapter: Adapter) -> Table:
    """One line for each version of an adapter."""
    table = _table("version", "", "rank>", "held-out>", "base's>", "job", "trained")
    names: dict[str, list[str]] = {}
    for alias, target in adapter.aliases.items():
        names.setdefault(str(target), []).append(alias)
    for one in adapter.versions:
        marks = {*names.get(_id(one), []), *names.get(str(one.number), [])}
        marks |= {"live"} if _id(one) == adapter.live else set()
        table.add_row(
            _id(one),
            Text(", ".join(sorted(marks)), style="green"),
            str(one.rank or "-"),
            number(one.valid_loss),
            number(one.base_valid_loss),
            one.job_id or "-",
            moment(one.created_at),
        )
    return table


def problems_table(problems: Iterable[Problem]) -> Table:
    """What the server found wrong, line by line."""
    table = _table("line>", "field", "what is wrong")
    for problem in problems:
        what = problem.message.removeprefix(f"Line {problem.line}: ")  # it has a column of its own
        table.add_row(str(problem.line or "-"), problem.field or "-", Text(what))
    return table


def _id(version: Version) -> str:
    """`support-bot@3`, whether the server's `name` has the number in it or not."""
    return version.name if "@" in version.name else f"{version.name}@{version.number}"


def _table(*headings: str) -> Table:
    """Columns by their headings; one that ends in `>` holds numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in headings:
        justify: Literal["right", "left"] = "right" if heading.endswith(">") else "left"
        whole = heading in {"job", "adapter", "version", "live"}  # names that people copy
        table.add_column(heading.removesuffix(">"), justify=justify, overflow="fold", no_wrap=whole)
    return table


def facts(rows: Sequence[tuple[str, str | Text]]) -> Table:
    """A line for each thing that is known."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(value))
    return table
