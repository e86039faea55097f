"""`graft jobs` and `graft jobs ID`: a group of commands that may be called without naming one."""

from typing import Any

from typer.core import TyperGroup


class ListsAndShows(TyperGroup):
    """No word means `list`; a word that is no command is what to `show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the command that was meant."""
        first = args[0] if args else ""
        if not first or (first.startswith("-") and first != "--help"):
            args = ["list", *args]
        elif first not in self.commands and first != "--help":
            args = ["show", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest
