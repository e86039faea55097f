"""Whether an engine computes what training saw: its log-probabilities of a version's probes beside the recorded ones.

All numbers are natural logarithms; distances are means of absolute differences over the reply tokens of all probes, so
that the triangle inequality holds between them. Why these tolerances: docs/adr/0027-proof-after-loading.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite

from adapters.manifest import Probe

#: Unit roundoff of a number's format: the most by which rounding moves it, relative to itself.
_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: How far roundings of that size move a log-probability on the way through a model, with a margin.
_GROWTH = 32
#: Exponentials and sums are approximated too, in float32 as in any other format.
_LEAST = 0.01
#: The same roundings move adapter and base about equally; further than so many times the base's is something else.
_BEYOND_BASE = 4
#: So many times what rounding explains in the coarsest format, which is twice what one probe needs to prove anything
#: (`verify_alone`), on so many tokens: it tells what two would.
_PLAIN, _PLENTY = 4, 8


class Outcome(StrEnum):
    """What a comparison comes to."""

    VERIFIED = "verified"
    #: As it should be, but the base model alone would look the same: the adapter changes too little.
    INCONCLUSIVE = "inconclusive"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an engine was found to compute of a version."""

    outcome: Outcome
    #: For people: what was compared, and how far apart it is.
    reason: str
    #: Whether the next load need not compare again.
    lasts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an engine thinks of the reply tokens of one probe."""

    adapter_logprobs: Sequence[float]
    base_logprobs: Sequence[float]


def tolerance(*formats: str) -> float:
    """How far the number formats in which training and engine compute explain, in nats; the coarsest one counts.

    A format that is not known is taken for the coarsest.
    """
    coarsest = max(_ROUNDOFF.get(one, _ROUNDOFF["bfloat16"]) for one in formats)
    return max(_LEAST, _GROWTH * coarsest)


def tells_enough(probe: Probe) -> bool:
    """Whether training saw adapter and base model so far apart on it that no second probe is worth its pass."""
    plenty = len(probe.adapter_logprobs) >= _PLENTY
    return plenty and _apart(probe) > _PLAIN * tolerance("bfloat16")


def most_telling_first(probes: Iterable[Probe]) -> list[Probe]:
    """Where training saw adapter and base model furthest apart, one alone may prove that it is applied."""
    return sorted(probes, key=_apart, reverse=True)


def verify_alone(
    probes: Sequence[Probe], adapter_logprobs: Sequence[Sequence[float]], *, within: float
) -> Verdict | None:
    """What the engine's answers with the adapter prove by themselves; None where the base model's are needed too.

    They are as near to training as rounding explains, and the base model was more than twice as far from there.
    Were the adapter not applied, they would be the answers of a base model that is not the one that training had.

    Args:
        probes: at least one.
        adapter_logprobs: what the engine thinks of the reply tokens of each.
        within: what rounding explains, in nats.
    """
    told = _joined(probe.adapter_logprobs for probe in probes)
    off = _distance(_joined(adapter_logprobs), told)
    signal = _distance(told, _joined(probe.base_logprobs for probe in probes))
    # Not the other way round: comparisons with what is no number are false.
    if off <= within and signal > 2 * within:
        return _verified(off, signal)
    return None


def compare(probes: Sequence[Probe], measured: Sequence[Measured], *, within: float) -> Verdict:
    """Hold what an engine measured against what training saw.

    Args:
        probes: at least one.
        measured: one for each of them, with a number for each reply token.
        within: what rounding explains, in nats.
    """
    told_adapter = _joined(probe.adapter_logprobs for probe in probes)
    told_base = _joined(probe.base_logprobs for probe in probes)
    adapter = _joined(one.adapter_logprobs for one in measured)
    base = _joined(one.base_logprobs for one in measured)
    off, base_off = _distance(adapter, told_adapter), _distance(base, told_base)
    signal, effect = _distance(told_adapter, told_base), _distance(adapter, base)
    # An engine whose base model computes no numbers at all tells nothing of the adapter.
    allowed = max(within, _BEYOND_BASE * base_off) if isfinite(base_off) else inf
    if off > allowed or (isfinite(allowed) and not isfinite(off)):
        how = "as the base model does" if effect <= within else "as some other adapter would"
        told = f"The engine answers {how}: its log-probabilities are {off:.3g} nats away from those that training saw"
        return Verdict(
            outcome=Outcome.QUARANTINED, reason=f"{told}; rounding explains {allowed:.3g}."
        )
    # If the adapter were not applied, `off` would be `signal`, but for `base_off`: more than is allowed.
    if signal <= 2 * allowed:
        told = f"Adapter and base model are {signal:.3g} nats apart, and rounding explains {allowed:.3g}"
        # Where the base model strays, it is the engine that is not itself, perhaps for a moment only.
        return Verdict(
            outcome=Outcome.INCONCLUSIVE,
            reason=f"{told}: too near to tell.",
            lasts=base_off <= within,
        )
    return _verified(off, signal)


def quarantine_message(name: str, reason: str) -> str:
    """What whoever asks for a quarantined version is told."""
    return (
        f"{name} is quarantined: the engine does not compute what training saw. {reason} Name another version, or have "
        "whoever runs this server look into it."
    )


def _verified(off: float, signal: float) -> Verdict:
    told = (
        f"Within {off:.3g} nats of training, which saw adapter and base model {signal:.3g} apart."
    )
    return Verdict(outcome=Outcome.VERIFIED, reason=told)


def _apart(probe: Probe) -> float:
    """How far training saw adapter and base model apart on it."""
    return _distance(probe.adapter_logprobs, probe.base_logprobs)


def _joined(parts: Iterable[Sequence[float]]) -> list[float]:
    return [number for part in parts for number in part]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    pairs = zip(one, other, strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(one)
