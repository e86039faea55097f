"""What `graft up` says: one calm line for each thing that happened. The processes' own words go to their logs."""

import time

from rich.console import Console
from rich.markup import escape

#: While one process dies again and again, a report this often (seconds) is enough.
QUIET_FOR = 10.0
#: Of a log line, so much.
LONGEST_WORDS = 160


class Report:
    """Lines on a console, with the seconds since the start; colours only where there is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._started: set[str] = set()
        self._stopping = False
        self._last_words: dict[str, tuple[float, list[str]]] = {}

    def line(self, mark: str, text: str) -> None:
        """The one place that prints. `mark` is a rich style name; `text` is taken as it is."""
        seconds = time.monotonic() - self._start
        self._console.print(
            f"[dim]{seconds:7.1f} s[/]  [{mark}]{escape(text)}[/]", soft_wrap=True, highlight=False
        )

    def started(self, name: str) -> None:
        """Only the first start is news; of a restart, `died` has told already."""
        if name not in self._started:
            self._started.add(name)
            self.line("none", f"{name}: started")

    def ready(self, name: str, detail: str) -> None:
        """Something answers now."""
        self.line("green", f"{name}: ready {detail}")

    def lost(self, name: str) -> None:
        """Something answered before and does not any more."""
        if not self._stopping:
            self.line("yellow", f"{name}: not ready")

    def died(self, name: str, how: str, delay: float, said: list[str]) -> None:
        """With its last words, unless it said the same a moment ago."""
        self.line("red", f"{name}: {how}; starting it again in {delay:g} s")
        told, words = self._last_words.get(name, (-QUIET_FOR, []))
        if said and (said != words or time.monotonic() - told >= QUIET_FOR):
            self._last_words[name] = (time.monotonic(), said)
            for words_line in said:
                self._console.print(
                    f"             [dim]| {escape(words_line[:LONGEST_WORDS])}[/]",
                    soft_wrap=True,
                    highlight=False,
                )

    def stopping(self) -> None:
        """The first signal came. That what is told to stop is not ready is no news any more."""
        self._stopping = True
        self.line("none", "stopping: service, trainer, engines (again Ctrl-C: kill them now)")

    def killing(self, name: str) -> None:
        """It did not end in time."""
        self.line("yellow", f"{name}: did not end in time, killing it")

    def stopped(self) -> None:
        """Nothing runs any more."""
        self.line("none", "stopped")

    def hint(self, text: str) -> None:
        """Something to copy and paste: printed bare."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
