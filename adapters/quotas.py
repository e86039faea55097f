"""How much a tenant may take, and how much it has taken."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Bytes that are kept for a tenant."""

    files: int = 0
    #: Announced by uploads that are not complete yet.
    uploads: int = 0
    versions: int = 0
    #: But for those whose files are a version's too.
    checkpoints: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.files + self.uploads + self.versions + self.checkpoints
