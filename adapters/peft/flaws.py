"""What can be wrong with an adapter. The words are stable: clients and dashboards go by them."""

from dataclasses import dataclass, field
from enum import StrEnum

from adapters.errors import InvalidAdapter

#: How many flaws of one adapter are told, and how many are counted.
_MOST_TOLD, _MOST_COUNTED = 20, 1000


class Flaw(StrEnum):
    """One kind of thing that is wrong."""

    # Of the archive.
    NOT_AN_ARCHIVE = "not_an_archive"
    ARCHIVE_DAMAGED = "archive_damaged"
    TOO_LARGE = "too_large"
    TOO_MANY_MEMBERS = "too_many_members"
    UNSAFE_PATH = "unsafe_path"
    LINK = "link"
    SPECIAL_MEMBER = "special_member"
    DUPLICATE_MEMBER = "duplicate_member"
    MISSING_FILE = "missing_file"
    SEVERAL_ADAPTERS = "several_adapters"
    PICKLE = "pickle"
    # Of adapter_config.json.
    CONFIG_UNREADABLE = "config_unreadable"
    OPTION_INVALID = "option_invalid"
    NOT_LORA = "not_lora"
    WRONG_TASK = "wrong_task"
    RANK_INVALID = "rank_invalid"
    RANK_TOO_LARGE = "rank_too_large"
    ALPHA_INVALID = "alpha_invalid"
    PATTERN_INVALID = "pattern_invalid"
    TARGETS_INVALID = "targets_invalid"
    UNKNOWN_TARGET = "unknown_target"
    DORA = "dora"
    BIAS = "bias"
    FULL_MODULES = "full_modules"
    INITIALISATION = "initialisation"
    UNSUPPORTED_OPTION = "unsupported_option"
    WRONG_BASE_MODEL = "wrong_base_model"
    # Of adapter_model.safetensors.
    WEIGHTS_UNREADABLE = "weights_unreadable"
    WEIGHTS_TRUNCATED = "weights_truncated"
    OFFSETS_INVALID = "offsets_invalid"
    DTYPE = "dtype"
    NO_TENSORS = "no_tensors"
    UNKNOWN_TENSOR = "unknown_tensor"
    UNKNOWN_LAYER = "unknown_layer"
    FACTOR_MISSING = "factor_missing"
    SHAPE = "shape"
    RANK_MISMATCH = "rank_mismatch"
    NOT_FINITE = "not_finite"
    # Of the two together.
    CONFIG_DISAGREES = "config_disagrees"


@dataclass(slots=True)
class Findings:
    """The flaws that have been found so far."""

    _found: list[dict[str, object]] = field(default_factory=list)

    def add(self, flaw: Flaw, message: str) -> None:
        """Note a flaw; the message says what it is and what to do."""
        if len(self._found) < _MOST_COUNTED:
            self._found.append(_told(flaw, message))

    def settle(self) -> None:
        """Raises InvalidAdapter where there are any."""
        if not self._found:
            return
        first = str(self._found[0]["message"])
        more = len(self._found) - 1
        rest = f" There {_problems(more)} more, see details." if more else ""
        raise InvalidAdapter(first + rest, param="archive", details=self._found[:_MOST_TOLD])


def refusal(flaw: Flaw, message: str) -> InvalidAdapter:
    """The error for an adapter with this flaw, where it is of no use to look further."""
    return InvalidAdapter(message, param="archive", details=[_told(flaw, message)])


def flaw_of(error: InvalidAdapter) -> str:
    """The word for the first flaw."""
    return str(error.details[0]["code"]) if error.details else error.code


def _told(flaw: Flaw, message: str) -> dict[str, object]:
    # The JSON of strangers can hold half a surrogate pair, which an answer cannot.
    return {
        "code": flaw.value,
        "message": message.encode(errors="backslashreplace").decode(),
    }


def _problems(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
