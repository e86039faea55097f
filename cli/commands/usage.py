"""`graft usage`: what one uses, and what one may use."""

from cli.client import GraftClient
from cli.commands.shared import HERE, Url, reporting_errors, screen
from cli.render import facts
from cli.wire import Rate, Stored

_STEP = 1024
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def usage(url: Url = HERE) -> None:
    """What the key's tenant keeps, has waiting and may still ask, and how much of each it may."""
    with reporting_errors():
        used = GraftClient(url).usage()
    jobs, most = used.jobs, used.stored.limit
    screen().print(
        facts(
            [
                ("tenant", used.tenant),
                ("stored", f"{size(used.stored.bytes)} of {'any' if most is None else size(most)}"),
                ("", ", ".join(_parts(used.stored))),
                ("waiting jobs", f"{jobs.queued} of {'any' if jobs.limit is None else jobs.limit}"),
                ("highest priority", jobs.highest_priority or "-"),
                ("requests", _rate(used.requests)),
                ("tokens", _rate(used.tokens)),
            ]
        )
    )


def size(count: float) -> str:
    """Bytes as people say them, such as 1.5 GiB."""
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count, unit = count / _STEP, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} bytes"


def _parts(stored: Stored) -> list[str]:
    return [
        f"{name} {size(getattr(stored, name))}"
        for name in ("files", "uploads", "versions", "checkpoints")
    ]


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "any number a minute"
    return f"{rate.remaining:,} left of {rate.limit_per_minute:,} a minute"
