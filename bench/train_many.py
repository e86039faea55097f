"""Many small jobs at once: what the whole trainer is built for."""

from bench.contest import Workload, contests
from bench.lessons import lesson
from bench.measure import Settings
from bench.table import Table

JOBS = 8


def run(settings: Settings) -> Table:
    """Every job has weights, optimizer and data of its own on both sides."""
    lessons = [lesson(seed, [16]) for seed in range(JOBS)]
    workload = Workload(name=f"{JOBS} jobs, 1 row of 16 tokens each", lessons=lessons, steps=2)
    return Table(
        name="train_many",
        what=(
            f"real tokens a second over all of {JOBS} jobs that are in one pass with us and one after the other with "
            "the peer. Model, settings, peer and checks are those of train_one; the peer's model stays in memory and "
            "changing from job to job is not on its clock"
        ),
        rows=contests(settings, [workload]),
    )
