"""The learning rate over a job's life."""

import math

#: Warm-up is never shorter than this unless the run is, and never longer than LONGEST.
SHORTEST_WARMUP = 5
LONGEST_WARMUP = 100
FLOOR = 0.1


def warmup_steps(ratio: float, total_steps: int) -> int:
    """Steps until the full rate: `ratio` of the run, at least 5 (a quarter of a short run), at most 100."""
    if ratio == 0:
        return 0
    shortest = min(SHORTEST_WARMUP, total_steps // 4)
    return min(max(round(ratio * total_steps), shortest), LONGEST_WARMUP)


def learning_rate(peak: float, ratio: float, step: int, total_steps: int) -> float:
    """The rate of optimizer step `step`, counted from 0: linear warm-up, then cosine to a tenth of the peak.

    The cosine's lower end is not zero, since the last steps of a short run would otherwise teach nothing.
    """
    warmup = warmup_steps(ratio, total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
