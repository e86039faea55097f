"""What the service stands on: its build, the database, the disk."""

import platform
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge


class HouseMetrics:
    """As of the latest scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.db_up = Gauge(
            "graft_db_up", "Whether the ledger's database answered.", registry=registry
        )
        self.storage_free = Gauge(
            "graft_storage_free_bytes",
            "Bytes left on the file system of the home folder.",
            registry=registry,
        )
        self.storage_size = Gauge(
            "graft_storage_size_bytes",
            "Bytes of the file system of the home folder.",
            registry=registry,
        )
        build = Gauge(
            "graft_build_info",
            "What runs here; always 1.",
            ["component", "version", "python"],
            registry=registry,
        )
        build.labels("service", own_version(), platform.python_version()).set(1)


def own_version() -> str:
    """Ours, where it is installed as a package."""
    try:
        return version("graft")
    except PackageNotFoundError:
        return "unknown"
