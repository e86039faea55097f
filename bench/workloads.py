"""What is trained in the training benchmarks: the same rows for everyone, drawn without any library of anyone's."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure import CannotRun

#: What every contestant trains with. Our defaults, but for the schedule: steps of a full rate change more.
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 2e-4, 0.01, 1.0
RANK, ALPHA = 16, 32
#: Steps before the clock starts: the first one allocates the optimizer's state and meets every shape.
UNTIMED_STEPS = 1
IGNORED = -100
#: Of the demo model, without the special tokens at its beginning.
FIRST_TOKEN, LAST_TOKEN = 100, 40_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row: its tokens, and which of them are learnt."""

    ids: tuple[int, ...]
    is_target: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> tuple[int, ...]:
        """As transformers wants them: what is not learnt is -100."""
        pairs = zip(self.ids, self.is_target, strict=True)
        return tuple(token if wanted else IGNORED for token, wanted in pairs)

    @property
    def read(self) -> int:
        """How many leading tokens the last target follows from. That target itself need not be computed with."""
        return max(at for at, wanted in enumerate(self.is_target) if wanted)

    @property
    def targets(self) -> int:
        """How many tokens count; the first never does, since nothing predicts it."""
        return sum(self.is_target[1:])


@dataclass(frozen=True, slots=True)
class Lesson:
    """One job's data: the rows of its only batch, which every step sees again."""

    seed: int
    rows: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        """Real ones; padding is nobody's work."""
        return sum(len(row) for row in self.rows)

    @property
    def read(self) -> int:
        """Tokens that a target follows from."""
        return sum(row.read for row in self.rows)

    @property
    def targets(self) -> int:
        """Tokens that count in the loss."""
        return sum(row.targets for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Lessons that are trained at the same time, or one after the other, and how many steps make one measurement."""

    name: str
    what: str
    lessons: Sequence[Lesson]
    steps: int

    @property
    def tokens(self) -> int:
        """Real tokens in one step of all jobs."""
        return sum(one.tokens for one in self.lessons)

    @property
    def read(self) -> int:
        """Tokens that a target follows from, in one step of all jobs."""
        return sum(one.read for one in self.lessons)

    @property
    def targets(self) -> int:
        """Tokens that count, in one step of all jobs."""
        return sum(one.targets for one in self.lessons)

    @property
    def padding(self) -> float:
        """How much longer than the real tokens each job's batch is when padded to its longest row."""
        padded = sum(len(one.rows) * max(map(len, one.rows)) for one in self.lessons)
        return padded / self.tokens


def lesson(seed: int, lengths: Sequence[int]) -> Lesson:
    """Random tokens, of which the last half of each row is the target."""
    chance = random.Random(seed)
    rows = []
    for length in lengths:
        ids = tuple(chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(length))
        rows.append(Tokens(ids, tuple(at >= length // 2 for at in range(length))))
    return Lesson(seed, tuple(rows))


def even_lengths(seed: int, count: int, shortest: int, longest: int) -> list[int]:
    """Each as likely as any other."""
    chance = random.Random(seed)
    return [chance.randint(shortest, longest) for _ in range(count)]


def skewed_lengths(seed: int, count: int, *, median: int, sigma: float, longest: int) -> list[int]:
    """Lognormal, as the lengths of instructions and their replies are; at least 16."""
    chance = random.Random(seed)
    drawn = (round(median * chance.lognormvariate(0, sigma)) for _ in range(count))
    return [min(longest, max(16, length)) for length in drawn]


def alpaca_like(seed: int, count: int) -> list[int]:
    """Lengths of instruction and reply together: about 90 tokens, seldom above 200."""
    return skewed_lengths(seed, count, median=90, sigma=0.5, longest=256)


def workloads() -> list[Workload]:
    """What is measured on the demo model."""
    return [
        Workload(
            name="tiny8",
            what="8 jobs of 1 row of 16 tokens",
            lessons=[lesson(seed, [16]) for seed in range(8)],
            steps=3,
        ),
        Workload(
            name="short16",
            what="16 jobs of 1 row of 12-40 tokens",
            lessons=[lesson(seed, even_lengths(seed, 1, 12, 40)) for seed in range(16)],
            steps=2,
        ),
        Workload(
            name="instruct8",
            what="8 jobs of 2 rows of instruction length",
            lessons=[lesson(seed, alpaca_like(seed, 2)) for seed in range(8)],
            steps=2,
        ),
        Workload(
            name="instruct1",
            what="1 job of 4 rows of instruction length",
            lessons=[lesson(1, alpaca_like(1, 4))],
            steps=3,
        ),
        Workload(
            name="skewed",
            what="1 job of 16 rows of skewed lengths",
            lessons=[lesson(2, skewed_lengths(2, 16, median=32, sigma=0.8, longest=256))],
            steps=2,
        ),
    ]


def chosen(known: Sequence[Workload], names: Sequence[str]) -> list[Workload]:
    """Those of the given names, or all where there are none.

    Raises:
        CannotRun: there is none of that name.
    """
    by_name = {workload.name: workload for workload in known}
    for name in names:
        if name not in by_name:
            raise CannotRun(f"There is no workload '{name}'; there are: {', '.join(by_name)}.")
    return [by_name[name] for name in names] if names else list(known)
