"""`python -m service.tokens`: questions in, answers out, a line each, until the service closes its end.

The one place in the service that loads transformers, and it loads it without torch: a tokenizer needs none, and the
import takes 2 seconds instead of 10, and 80 MB instead of 340.
"""

import os
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

sys.modules["torch"] = None  # type: ignore[assignment]  # what makes transformers do without it

from transformers import AutoConfig, AutoTokenizer, GenerationConfig  # noqa: E402  after the line above

from adapters.datasets.rendering import Renderer, stop_tokens  # noqa: E402
from adapters.errors import InvalidDataset  # noqa: E402
from service.tokens.messages import (  # noqa: E402
    Count,
    Counted,
    Preview,
    Refused,
    Show,
    decode_question,
    encode_answer,
)
from service.tokens.reading import count, show  # noqa: E402

#: A row that takes for ever must not outlive a service that was killed. The signal ends the process.
LONGEST_S = 120
#: Below the engine's and the trainer's: nobody waits for this but the one who asked.
NICENESS = 15


def main() -> None:
    """Answer until the service is gone."""
    os.nice(NICENESS)
    answers = _own_output()
    for line in sys.stdin.buffer:
        signal.alarm(LONGEST_S)
        answers.write(encode_answer(answer(decode_question(line))))
        answers.flush()
        signal.alarm(0)


def answer(question: Count | Show) -> Counted | Preview | Refused:
    """What there is to say; a row that cannot be rendered is an answer too."""
    tokenizer, renderer = speaker(question.directory)
    try:
        match question:
            case Count():
                return count(question, renderer)
            case Show():
                return show(question, renderer, tokenizer)
    except InvalidDataset as error:
        return Refused(message=error.message, details=error.details)
    except OSError as error:  # an uploaded file that was deleted meanwhile
        return Refused(message=f"The data cannot be read any more: {error.strerror}.")


@lru_cache(maxsize=8)
def speaker(directory: Path) -> tuple[Any, Renderer]:
    """The tokenizer of a prepared base model, and what renders rows with it."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return tokenizer, Renderer(tokenizer, stop_tokens(_configured_stops(directory), tokenizer))


def _configured_stops(directory: Path) -> int | list[int] | None:
    """As transformers gives them to a model that it loads from there."""
    try:
        generation = GenerationConfig.from_pretrained(directory)
    except OSError:  # no such file: the model's own config has them
        generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(directory))
    stops: int | list[int] | None = generation.eos_token_id
    return stops


def _own_output() -> BinaryIO:
    """Standard output, for us alone: what libraries print goes to the log."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    main()
