"""One job alone: what our packed loop gains, or loses, where there is nobody to share a pass with."""

from bench.contest import Workload, contests
from bench.lessons import lesson
from bench.measure import Settings
from bench.table import Table

#: The middles of eight equal parts of 30..110: the same padding in every run, 1.5 times the real tokens.
LENGTHS = (35, 45, 55, 65, 75, 85, 95, 105)


def run(settings: Settings) -> Table:
    """Two batches: a usual one, and the smallest, where the fixed cost of a step is nearly all of it."""
    workloads = [
        Workload(name="1 job, 8 rows of 35-105 tokens", lessons=[lesson(1, LENGTHS)], steps=2),
        Workload(name="1 job, 1 row of 16 tokens", lessons=[lesson(2, [16])], steps=6),
    ]
    return Table(
        name="train_one",
        what=(
            "real (not padding) tokens a second in optimizer steps of one warm job, half of the tokens targets. Demo "
            "model, rank 16, all layers, float32, 1 thread. Peer: transformers + PEFT + torch's fused AdamW, the same "
            "rows in a padded batch; losses and gradient norms of all steps agree"
        ),
        rows=contests(settings, workloads),
    )
