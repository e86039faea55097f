"""`graft chat`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.client import GraftClient, Refused, Unreachable
from cli.commands.shared import HERE, Url, reporting_errors, screen


@dataclass(slots=True)
class Conversation:
    """What was said, and with whom. A turn that fails is taken back, so that it can be said again."""

    client: GraftClient
    model: str
    options: Mapping[str, Any]
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str, console: Console) -> None:
        """Say it, and print the answer as it comes."""
        self.messages.append({"role": "user", "content": question})
        answer = ""
        try:
            for piece in self.client.say(self.model, self.messages, self.options):
                answer += piece
                console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        except (Refused, Unreachable):
            self.messages.pop()
            raise
        except KeyboardInterrupt:
            console.print(
                " ...", end="", style="dim"
            )  # leaving the stream cancels it on the server
        console.print()
        self.messages.append({"role": "assistant", "content": answer})


def chat(
    model: Annotated[str, typer.Option(help="A base model, an adapter, or a version: name@N.")],
    question: Annotated[str | None, typer.Argument(help="Ask only this, and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.")] = None,
    url: Url = HERE,
) -> None:
    """Talk to a model. Ctrl-C stops an answer; /new forgets what was said; /exit or Ctrl-D leaves."""
    options = {"temperature": temperature, "max_tokens": max_tokens}
    given = {key: value for key, value in options.items() if value is not None}
    opening = [{"role": "system", "content": system}] if system else []
    conversation = Conversation(GraftClient(url), model, given, [*opening])
    console = screen()
    if question is not None:
        with reporting_errors():
            conversation.ask(question, console)
        return
    while (said := read_line(console)) is not None:
        if said == "/new":
            conversation.messages = [*opening]
        elif said:
            try:
                conversation.ask(said, console)
            except (Refused, Unreachable) as error:
                console.print(str(error), style="red", markup=False, soft_wrap=True)


def read_line(console: Console) -> str | None:
    """What the person typed; None when they leave."""
    try:
        said = console.input("[bold]> [/]").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None
    return None if said in {"/exit", "/quit"} else said
