"""How a running job looks: a bar on a terminal, a line now and then elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn
from rich.text import Text

from cli.follow import Interrupted
from cli.plot import Point, plot
from cli.render import duration, event_line, number
from cli.wire import Job, JobEvent

#: Off a terminal, one line each so many percent.
EVERY_PERCENT = 10


class JobView:
    """Takes what `follow` yields, shows it, and remembers the losses for the plot."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("waiting", total=100, numbers="")
        self._told_percent = 0.0
        self._latest: dict[str, float | None] = {}
        self.train: list[Point] = []
        self.valid: list[Point] = []

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, item: JobEvent | Interrupted | Job) -> None:
        """One step of the story."""
        if isinstance(item, Interrupted):
            self._bar.update(self._task, description="reconnecting")
        elif isinstance(item, Job):
            completed = 100.0 if item.status == "succeeded" else None
            self._bar.update(self._task, description=item.status, completed=completed)
        elif item.type in {"metrics", "progress"}:
            self._show_numbers(item.data or {})
        elif item.type != "checkpoint":  # one a few steps: no news to a person
            self._console.print(event_line(item))
            if item.type == "status" and item.data:
                phase = item.data.get("phase") or item.data.get("status") or "running"
                self._bar.update(self._task, description=str(phase))

    def _show_numbers(self, data: dict[str, float | None]) -> None:
        self._latest |= {key: value for key, value in data.items() if value is not None}
        step = data.get("step")
        for name, points in (("train_loss", self.train), ("valid_loss", self.valid)):
            loss = data.get(name)
            if step is not None and loss is not None and (not points or points[-1][0] < step):
                points.append((step, loss))
        percent = self._latest.get("percent") or 0.0
        self._bar.update(
            self._task, completed=percent, description="training", numbers=self._numbers()
        )
        if not self._console.is_terminal and percent >= self._told_percent + EVERY_PERCENT:
            self._told_percent = percent - percent % EVERY_PERCENT
            self._console.print(f"{percent:3.0f} %  {self._numbers()}", soft_wrap=True)

    def _numbers(self) -> str:
        get = self._latest.get
        parts = [f"loss {number(get('train_loss'))}"]
        if get("valid_loss") is not None:
            parts.append(f"held-out {number(get('valid_loss'))}")
        if get("tokens_per_second") is not None:
            parts.append(f"{number(get('tokens_per_second'), 0)} tokens/s")
        if get("eta_seconds") is not None:
            parts.append(f"{duration(get('eta_seconds'))} left")
        return ", ".join(parts)

    def curve(self) -> Iterator[Text]:
        """The plot of the training loss, if there was enough to plot."""
        width = max(20, min(60, self._console.width - 20))
        lines = plot(self.train, width=width)
        if lines:
            yield Text("loss", style="dim")
        yield from map(Text, lines)


@contextmanager
def interrupted_politely(console: Console, job_id: str) -> Iterator[None]:
    """Ctrl-C leaves the job alone, and says how to come back to it."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            f"\nNot following any more; the job goes on.\n"
            f"  graft jobs {job_id}          how it is\n"
            f"  graft jobs follow {job_id}   follow it again\n"
            f"  graft jobs cancel {job_id}   stop it",
            soft_wrap=True,
            highlight=False,
        )
