"""When vLLM says that an answer loops."""

from collections.abc import Sequence


def loops(
    tokens: Sequence[object], *, min_pattern_size: int, max_pattern_size: int, min_count: int
) -> bool:
    """Whether a stretch of that many tokens comes that often in a row at the end."""
    return any(
        len(tokens) >= size * min_count and _has_period(tokens[-size * min_count :], size)
        for size in range(min_pattern_size, max_pattern_size + 1)
    )


def _has_period(tokens: Sequence[object], size: int) -> bool:
    return tokens[:-size] == tokens[size:]
