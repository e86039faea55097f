"""How much of a data set is kept from training, to judge by."""

from adapters.spec import TrainingSpec

#: Below this many examples a held-out part would say less than it costs.
SMALLEST_SPLIT = 50


def held_out_size(examples: int, spec: TrainingSpec) -> int:
    """How many examples to hold out.

    Left to ourselves: 5 %, at least 10 and at most 500, a tenth of small sets, nothing of tiny ones. A split that the
    user asked for is taken at its word, down to a single example.
    """
    wanted = round(spec.validation_split * examples)
    if spec.validation_split == 0 or examples < 2:  # noqa: PLR2004  one example can only be trained on
        return 0
    if spec.validation_split != TrainingSpec().validation_split:
        return min(max(1, wanted), examples - 1)
    if examples < SMALLEST_SPLIT:
        return 0
    return min(max(wanted, min(10, examples // 10)), 500)
