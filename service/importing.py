"""The story of an adapter that somebody brings: unpacked, looked at, made a version."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from adapters.artifacts import digest_directory
from adapters.errors import GraftError, InvalidAdapter, InvalidValue, Unavailable
from adapters.layers import LinearLayers, read_layers
from adapters.ledger import Registry
from adapters.manifest import (
    MANIFEST_FILE,
    BaseModelCard,
    Import,
    Manifest,
    dump_manifest,
    read_base_card,
)
from adapters.names import check_adapter_name, new_id
from adapters.peft.check import BaseNames, Checked, check_adapter
from adapters.peft.flaws import flaw_of
from adapters.peft.origin import take_origin
from adapters.peft.tar import Limits
from adapters.peft.unpack import take_folder, unpack
from adapters.records import Version
from service.metrics import Metrics
from service.schemas.importing import ImportOptions, SourceOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseModels:
    """What an import asks of the base models of this server."""

    #: By id, the default first: where the weights came from.
    sources: dict[str, str]
    directory_of: Callable[[str], Path]

    def names(self, model_id: str, vouched: str | None) -> BaseNames:
        """What an adapter may call that base model."""
        return BaseNames((model_id, self.sources[model_id]), vouched)

    def described(self, model_id: str) -> tuple[BaseModelCard, LinearLayers]:
        """Its card and its layers. Raises Unavailable while the trainer has not prepared it."""
        directory = self.directory_of(model_id)
        card, layers = read_base_card(directory), read_layers(directory)
        if card is None or layers is None:
            raise Unavailable(
                f"The base model '{model_id}' is still being prepared. Try again in a moment.",
                retry_after=10,
            )
        return card, layers


class Importer:
    """Takes adapters in. Sync: it reads files and writes the ledger; routes call it in a thread."""

    def __init__(
        self,
        registry: Registry,
        base_models: BaseModels,
        *,
        max_rank: int,
        max_bytes: int,
        folders: Sequence[Path],
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._base_models = base_models
        self._max_rank = max_rank
        self._limits = Limits(max_bytes)
        self._folders = tuple(folder.expanduser().resolve() for folder in folders)
        self._metrics = metrics

    def take_archive(self, archive: Path, options: ImportOptions) -> tuple[Version, bool]:
        """Make a tar the next version of an adapter; with it, whether it is new. Durable when this returns.

        The same files under the same name again are the same version.

        Raises:
            InvalidAdapter: see `check_adapter` and `unpack`.
            InvalidValue: a name that an adapter may not have, or a base model that is not there.
            InvalidRequest: the adapter of that name belongs to another base model.
            Unavailable: the base model is still being prepared.
        """
        return self._take(
            options, archive.parent, lambda target: unpack(archive, target, self._limits)
        )

    def take_source(self, options: SourceOptions, incoming: Path) -> tuple[Version, bool]:
        """The same with files that lie on this machine. Raises also InvalidValue, for a place that may not be read."""

        def fetch(target: Path) -> None:
            place = self._place(options.source)
            if place.is_dir():
                take_folder(place, target, self._limits)
            else:
                unpack(place, target, self._limits)

        return self._take(options, incoming, fetch)

    def _take(
        self, options: ImportOptions, incoming: Path, fetch: Callable[[Path], None]
    ) -> tuple[Version, bool]:
        with self._counted(options.name) as count, TemporaryDirectory(dir=incoming) as folder:
            base_model = self._base_model(options)
            fetch(directory := Path(folder))
            card, layers = self._base_models.described(base_model)
            checked = check_adapter(
                directory,
                layers=layers,
                max_rank=self._max_rank,
                names=self._base_models.names(base_model, options.trained_on),
            )
            take_origin(directory, card, vouched=options.trained_on)
            digest = digest_directory(directory)
            version = self._registry.find_import(options.name, base_model, digest)
            new = version is None
            if version is None:
                manifest = _manifest(card, checked, digest, options)
                (directory / MANIFEST_FILE).write_text(dump_manifest(manifest))
                version, new = self._registry.bring_in(
                    options.name, directory, manifest, promote=options.promote
                )
            count("accepted" if new else "repeated")
            log.info("%s %s as %s", "imported" if new else "had", options.name, version.name)
            return version, new

    def _base_model(self, options: ImportOptions) -> str:
        known = list(self._base_models.sources)
        check_adapter_name(options.name, base_models=known)
        base_model = options.base_model if options.base_model is not None else known[0]
        if base_model not in known:
            raise InvalidValue(
                f"'{base_model}' is not a base model of this server: {', '.join(known)}.",
                param="base_model",
            )
        return base_model

    def _place(self, source: str) -> Path:
        """The file or folder that `source` means. Links are followed before it is asked whether it may be read."""
        url = urlsplit(source)
        if url.scheme != "file" or url.netloc not in {"", "localhost"}:
            raise InvalidValue(
                "source must be a file: URL. This server fetches nothing from buckets, hubs or the web: download the "
                "adapter and send it as an archive.",
                param="source",
            )
        place = Path(unquote(url.path)).resolve()
        if not any(place.is_relative_to(folder) for folder in self._folders):
            raise InvalidValue(
                "source lies in no folder that this server may read from. Whoever runs it can name some "
                "(service.import_folders); or send the adapter as an archive.",
                param="source",
            )
        if not place.is_dir() and not place.is_file():
            raise InvalidValue("source is neither a folder nor a file.", param="source")
        return place

    @contextmanager
    def _counted(self, name: str) -> Iterator[Callable[[str], None]]:
        def count(outcome: str) -> None:
            self._metrics.weights.imports.labels(outcome).inc()

        try:
            yield count
        except GraftError as error:
            reason = flaw_of(error) if isinstance(error, InvalidAdapter) else error.code
            log.info("refused to import %r: %s: %s", name[:80], reason, error)
            count(reason)
            raise


def _manifest(
    card: BaseModelCard, checked: Checked, digest: str, options: ImportOptions
) -> Manifest:
    return Manifest(
        base=card,
        rank=checked.rank,
        alpha=checked.alpha,
        target_modules=checked.target_modules,
        rslora=checked.rslora,
        uniform=checked.uniform,
        dataset_digest=None,
        job_id=None,
        result=None,
        default_sampling=options.defaults.given,
        imported=Import(
            id=new_id("import-"),
            digest=digest,
            base_model=checked.base_model,
            warnings=checked.warnings,
        ),
    )
