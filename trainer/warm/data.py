"""A job's data, ready to train on: deduplicated, tokenised, split. Over-long rows are counted, never cut."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from adapters.datasets import read_examples
from adapters.datasets.examples import Example, fingerprint
from adapters.datasets.held_out import held_out_size
from adapters.errors import InvalidDataset
from adapters.spec import TrainingSpec
from trainer.warm.rows import Sample


@dataclass(frozen=True, slots=True)
class TokenisedFile:
    """The samples of each distinct example of one file."""

    examples: tuple[tuple[Sample, ...], ...]
    duplicates: int
    #: Rows longer than the job's `max_seq_length`.
    too_long: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a job trains on and what it is judged by."""

    train: tuple[Sample, ...]
    valid: tuple[Sample, ...]
    duplicates: int
    too_long: int

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them, those held out last."""
        return self.train + self.valid

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(sample.tokens for sample in self.train)

    @property
    def targets(self) -> int:
        """Tokens of one epoch that count in the loss."""
        return sum(sample.targets for sample in self.train)

    def warnings(self) -> tuple[str, ...]:
        """What the owner of the data should know."""
        found = []
        if self.duplicates:
            found.append(f"{self.duplicates} duplicate rows were left out.")
        if self.too_long:
            found.append(f"{self.too_long} rows longer than max_seq_length were left out.")
        return tuple(found)


#: Yields between examples, so that tokenising a large file never keeps other jobs or orders waiting.
DatasetSteps = Generator[None, None, Dataset]


#: What makes samples of an example.
SamplesOf: TypeAlias = Callable[[Example], list[Sample]]


def prepare(
    samples_of: SamplesOf, data: Path, validation: Path | None, spec: TrainingSpec
) -> DatasetSteps:
    """Read, tokenise and split; the result is the generator's return value.

    Raises:
        InvalidDataset: a row is bad, or none is left.
    """
    file = yield from tokenise(samples_of, read_examples(data), spec.max_seq_length)
    if validation is None:
        return split(file, spec)
    held_out = yield from tokenise(samples_of, read_examples(validation), spec.max_seq_length)
    dataset = Dataset(
        train=_flatten(file.examples),
        valid=_flatten(held_out.examples),
        duplicates=file.duplicates + held_out.duplicates,
        too_long=file.too_long + held_out.too_long,
    )
    return _checked(dataset)


def tokenise(
    samples_of: SamplesOf, examples: Iterable[Example], max_seq_length: int
) -> Generator[None, None, TokenisedFile]:
    """Every distinct example that fits, in file order. An example of which one row is too long is left out whole."""
    seen: set[bytes] = set()
    kept: list[tuple[Sample, ...]] = []
    duplicates = too_long = 0
    for example in examples:
        yield
        mark = fingerprint(example)
        if mark in seen:
            duplicates += 1
            continue
        seen.add(mark)
        samples = samples_of(example)
        if max(len(row) for sample in samples for row in sample.rows) > max_seq_length:
            too_long += 1
        else:
            kept.append(tuple(samples))
    return TokenisedFile(tuple(kept), duplicates, too_long)


def split(file: TokenisedFile, spec: TrainingSpec) -> Dataset:
    """Hold examples out, by chance but the same ones for the same seed."""
    count = held_out_size(len(file.examples), spec)
    generator = torch.Generator().manual_seed(spec.seed)
    order = torch.randperm(len(file.examples), generator=generator).tolist()
    held_out = set(order[:count])
    chosen = [(at in held_out, samples) for at, samples in enumerate(file.examples)]
    dataset = Dataset(
        train=_flatten(samples for held, samples in chosen if not held),
        valid=_flatten(samples for held, samples in chosen if held),
        duplicates=file.duplicates,
        too_long=file.too_long,
    )
    return _checked(dataset)


def _flatten(examples: Iterable[Sequence[Sample]]) -> tuple[Sample, ...]:
    return tuple(sample for samples in examples for sample in samples)


def _checked(dataset: Dataset) -> Dataset:
    if not dataset.train:
        raise InvalidDataset(
            f"No row is left to train on: {dataset.too_long} are longer than max_seq_length."
        )
    return dataset
