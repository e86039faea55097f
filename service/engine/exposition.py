"""vLLM's own metrics on their way through us: names as they are, one label more, and less that nobody can bound.

Read line by line and passed on as text: parsing tens of kilobytes into objects on every scrape would cost the loop
that streams tokens more than the scrape is worth.
"""

import re

_OURS = "vllm:"
#: Its label values are lists of the adapters that run or wait just now: every combination would be a series for ever.
_UNBOUNDED = "vllm:lora_requests_info"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_COMMENT = re.compile(r"# (HELP|TYPE) (\S+)")
_BACKSLASH, _QUOTE = "\\", '"'


class Exposition:
    """The metrics of several engines, as one text."""

    def __init__(self) -> None:
        #: By family, as vLLM names it in its comments: comments first, then samples, each line as it is told.
        self._families: dict[str, tuple[dict[str, str], list[str]]] = {}

    def add(self, base_model: str, text: str) -> None:
        """Take in what one engine says. Anything but vLLM's own (its Python, its HTTP server) is left out."""
        label = f'base_model="{_escaped(base_model)}"'
        family: tuple[dict[str, str], list[str]] | None = None
        for line in text.splitlines():
            comment = _COMMENT.match(line)
            if comment:
                kind, name = comment.groups()
                family = self._family(name)
                if family is not None:
                    family[0].setdefault(kind, line)
            elif family is not None and (sample := _labelled(line, label)):
                family[1].append(sample)

    def as_text(self) -> str:
        """In Prometheus's text format, each family once."""
        lines: list[str] = []
        for comments, samples in self._families.values():
            if samples:
                lines += [*comments.values(), *samples]
        return "".join(f"{line}\n" for line in lines)

    def _family(self, name: str) -> tuple[dict[str, str], list[str]] | None:
        mine = name.startswith(_OURS) and not name.startswith(_UNBOUNDED)
        if not mine or name.endswith("_created"):
            return None
        return self._families.setdefault(name, ({}, []))


def _labelled(line: str, label: str) -> str | None:
    name = _NAME.match(line)
    if name is None:
        return None
    rest = line[name.end() :]
    if not rest.startswith("{"):
        return f"{name[0]}{{{label}}}{rest}"
    return f"{name[0]}{{{label}{rest[1:] if rest[1:2] == '}' else ',' + rest[1:]}"


def _escaped(value: str) -> str:
    return value.replace(_BACKSLASH, _BACKSLASH * 2).replace(_QUOTE, _BACKSLASH + _QUOTE)
