"""Models made from their shapes, with random weights: nothing has to be carried to a GPU to measure on it."""

from dataclasses import dataclass

from bench.measure import CannotRun
from bench.workloads import LAST_TOKEN, Workload, lesson, skewed_lengths

#: Next to nothing to compute: what a step costs at all.
FIXED = Workload(
    name="fixed", what="1 job of 1 row of 16 tokens", lessons=[lesson(0, [16])], steps=10
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama's dimensions, and how much of it is trained at once."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    #: Tokens of a micro-batch.
    token_budget: int
    #: Jobs that are trained at the same time; also a quarter of them, and twice as many.
    many: int = 16
    #: Lengths of rows are divided by this.
    shorten: int = 1
    needs_gpu: bool = True


SHAPES = {
    # As Llama 3.2 1B and Llama 3.1 8B.
    "1b": Shape(
        name="1b",
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        tie_word_embeddings=True,
        token_budget=16_384,
    ),
    "8b": Shape(
        name="8b",
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        tie_word_embeddings=False,
        token_budget=8192,
    ),
    # For trying the benchmark out, on anything.
    "tiny": Shape(
        name="tiny",
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=LAST_TOKEN,
        tie_word_embeddings=True,
        token_budget=1024,
        many=4,
        shorten=16,
        needs_gpu=False,
    ),
}


def shape_of(name: str) -> Shape:
    """The shape of that name.

    Raises:
        CannotRun: there is none.
    """
    if name not in SHAPES:
        raise CannotRun(f"There is no shape '{name}'; there are: {', '.join(SHAPES)}.")
    return SHAPES[name]


def gpu_workloads(shape: Shape) -> list[Workload]:
    """From many small jobs, where fixed costs decide, to long rows, where the machine does."""

    def short(length: int) -> int:
        return max(4, length // shape.shorten)

    def small(jobs: int) -> Workload:
        lengths = [
            skewed_lengths(seed, 4, median=90, sigma=0.6, longest=512) for seed in range(jobs)
        ]
        return Workload(
            name=f"small{jobs}",
            what=f"{jobs} {'job' if jobs == 1 else 'jobs'} of 4 rows of skewed lengths",
            lessons=[lesson(seed, [*map(short, own)]) for seed, own in enumerate(lengths)],
            steps=5,
        )

    def one(rows: int, length: int) -> Workload:
        return Workload(
            name=f"{rows}x{length}",
            what=f"1 job of {rows} rows of {short(length)} tokens",
            lessons=[lesson(0, [short(length)] * rows)],
            steps=3,
        )

    return [
        *(small(jobs) for jobs in sorted({1, shape.many // 4, shape.many, 2 * shape.many})),
        *(one(*rows) for rows in ((4, 128), (4, 512), (8, 1024), (4, 2048))),
    ]
