"""What a `model` means: asked once for every request, and so to be answered in the same time however many there are."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, cast

from adapters.ledger import CheckpointShelf, Registry
from adapters.manifest import BaseModelCard, Manifest, TrainingResult
from adapters.records import Adapter, Version
from bench.measure import Settings, interleave, seconds
from bench.table import Row, Table
from service.catalog import Catalog

BASE = "base"
SIZES = (10, 1000, 10_000)
VERSIONS = 3
LOOKUPS = 50_000


def run(settings: Settings) -> Table:
    """Against a dict of the same size, and against ourselves with few adapters."""
    sides = {size: Side(size) for size in SIZES}
    rows = [
        _row(settings, f"{size} adapters; peer: a dict", side.resolve, side.look_up)
        for size, side in sides.items()
    ]
    few, many = sides[SIZES[0]], sides[SIZES[-1]]
    flat = f"{SIZES[-1]} adapters; peer: ours with {SIZES[0]}"
    shared = f"{SIZES[-1]} adapters, a canary each; peer: ours without"
    split = Side(SIZES[-1], canary=True)
    return Table(
        name="resolve",
        what=(
            f"microseconds of one Catalog.resolve, names drawn at random, half of them as `name` and half as `name@N`; "
            f"{VERSIONS} versions each, always for the same user. The dict has every one of these strings as a key. {LOOKUPS} lookups a round"
        ),
        rows=[
            *rows,
            _row(settings, flat, many.resolve, few.resolve),
            _row(settings, shared, split.resolve, many.resolve),
        ],
    )


def _row(
    settings: Settings, name: str, ours: Callable[[], float], peer: Callable[[], float]
) -> Row:
    pairs = interleave(settings.rounds, ours, peer)
    return Row(
        name=name,
        unit="us",
        better="lower",
        ours=[mine for mine, _ in pairs],
        peer=[other for _, other in pairs],
    )


class Side:
    """A catalog and a dict that know the same names, with the questions to ask them."""

    def __init__(self, size: int, *, canary: bool = False) -> None:
        adapters = [adapter(f"adapter-{number}", canary=canary) for number in range(size)]
        self._plain = {
            name: version
            for adapter in adapters
            for version in adapter.versions
            for name in (version.name, adapter.name)
        }
        # The ledger is only asked for what has changed; a lookup never gets that far.
        self._catalog = Catalog(
            cast(Registry, Changes(adapters)), [BASE], cast(CheckpointShelf, None)
        )
        asyncio.run(self._catalog.refresh())
        names = random.Random(size)
        bare = [adapter.name for adapter in adapters]
        versioned = [version.name for adapter in adapters for version in adapter.versions]
        self._names = [names.choice(versioned if n % 2 else bare) for n in range(LOOKUPS)]
        self._check()

    def resolve(self) -> float:
        """Microseconds of one `Catalog.resolve`."""
        names, resolve = self._names, self._catalog.resolve

        def ask() -> None:
            for name in names:
                _finished(resolve(name, "a user"))

        return 1e6 * seconds(ask) / LOOKUPS

    def look_up(self) -> float:
        """Microseconds of one lookup in a dict."""
        names, plain = self._names, self._plain

        def ask() -> None:
            for name in names:
                plain[name]

        return 1e6 * seconds(ask) / LOOKUPS

    def _check(self) -> None:
        for name in self._names[:1000]:
            assert _finished(self._catalog.resolve(name)).version is self._plain[name]


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Its result. A known name is found without waiting for anything, so no event loop is needed, nor measured."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("resolve waited for something")


@dataclass(frozen=True, slots=True)
class Changes:
    """As much of a registry as the catalog asks."""

    adapters: Sequence[Adapter]

    def changes(self, *, since: int) -> tuple[int, Sequence[Adapter]]:
        """Everything is new once."""
        return 1, self.adapters if since < 1 else []


def adapter(name: str, *, canary: bool = False) -> Adapter:
    """One with a few versions."""
    versions = tuple(
        Version(
            adapter=name,
            number=number,
            base_model=BASE,
            digest=f"{name}-{number}",
            job_id=None,
            rank=16,
            manifest=MANIFEST,
            created_at=0.0,
        )
        for number in range(1, VERSIONS + 1)
    )
    return Adapter(
        name=name,
        base_model=BASE,
        created_at=0.0,
        versions=versions,
        aliases={"live": VERSIONS} | ({"canary": 1} if canary else {}),
        weights={"canary": 0.1} if canary else {},
    )


MANIFEST = Manifest(
    base=BaseModelCard(
        id=BASE,
        digest="",
        chat_template_digest="",
        tokenizer_digest="",
        architecture="",
        max_seq_length=1,
        linear_modules=(),
    ),
    rank=16,
    alpha=32.0,
    target_modules=(),
    dataset_digest="",
    job_id="",
    result=TrainingResult(
        steps=1,
        best_step=1,
        epochs=1.0,
        trained_tokens=1,
        train_loss=1.0,
        valid_loss=None,
        base_valid_loss=None,
        stopped_early=False,
        seconds=1.0,
    ),
)
