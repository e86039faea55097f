"""From a conversation to tokens and targets, through the base model's own chat template.

The tokens are those that the engine will produce when it serves the same messages: the prompt is rendered with
`add_generation_prompt`, the reply is whatever the template puts after that. A conversation becomes one row where every
served prompt is a prefix of the whole; where it is not (templates that drop earlier reasoning, tokens that merge across
the border), it becomes one row for each trained reply, which is right for any template.

It is here and not in the trainer, because who looks at data before there is a job must see what training will see. The
tokenizer is given: nothing here loads one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from adapters.datasets.examples import Comparison, Conversation, Example, Message, Passage
from adapters.errors import InvalidDataset


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One tokenised sequence."""

    tokens: list[int]
    #: How much each token counts in the loss; 0 is context. The first never counts: nothing predicts it.
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Reply:
    """One trained message: what the engine would see before it, and what it should say."""

    prompt: list[int]
    #: Through the end-of-turn token; whitespace that the template puts after it is context, not target.
    reply: list[int]
    rest: list[int]
    #: Of each of the reply's tokens in the loss.
    weight: float


class Renderer:
    """Turns examples into rows for one base model."""

    def __init__(self, tokenizer: Any, stop_tokens: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_tokens = stop_tokens

    def samples(self, example: Example) -> list[tuple[RenderedRow, ...]]:
        """What an optimizer step takes together or not at all: each row alone, or the two sides of a comparison.

        Raises:
            InvalidDataset: as `rows` and `pair`.
        """
        if isinstance(example, Comparison):
            return [self.pair(example)]
        return [(row,) for row in self.rows(example)]

    def pair(self, comparison: Comparison) -> tuple[RenderedRow, RenderedRow]:
        """Chosen and rejected, in this order.

        Raises:
            InvalidDataset: as `rows`, or one side makes several rows.
        """
        return self._only(comparison.chosen), self._only(comparison.rejected)

    def rows(self, example: Example) -> list[RenderedRow]:
        """The example's rows; at least one, each with at least one target token.

        Raises:
            InvalidDataset: there is no chat template, it cannot render the messages, or nothing would be trained.
        """
        try:
            match example:
                case Passage():
                    return [self._passage(example)]
                case Conversation():
                    return self._conversation(example)
                case Comparison():
                    raise _not_supervised(example)
        except TemplateError as error:
            raise InvalidDataset(
                f"Line {example.line}: the chat template refuses these messages: {error}",
                details=[{"line": example.line, "code": "chat_template", "message": str(error)}],
            ) from error

    def _passage(self, passage: Passage) -> RenderedRow:
        """Special tokens are added as the tokenizer does by itself, since that is how completions are served."""
        tokens = list(self._tokenizer(passage.text)["input_ids"])
        end = self._tokenizer.eos_token_id
        if end is not None and tokens[-1:] != [end]:
            tokens.append(end)
        if len(tokens) < 2:  # noqa: PLR2004  the first token is predicted by nothing
            raise _nothing_to_train(passage)
        return _row(tokens, [(0, len(tokens), 1.0)])

    def _conversation(self, conversation: Conversation) -> list[RenderedRow]:
        if not self._tokenizer.chat_template:
            raise InvalidDataset(
                "This base model has no chat template: train it on plain text, or choose an instruct model."
            )
        trained = [at for at, message in enumerate(conversation.messages) if message.trained]
        replies = [self._reply(conversation, at) for at in trained]
        if not replies:
            raise _nothing_to_train(conversation)
        whole = self._tokens(self._text(conversation.messages[: trained[-1] + 1]))
        spans = []
        for reply in replies:
            so_far = reply.prompt + reply.reply
            if whole[: len(so_far)] != so_far:
                return [_own_row(reply) for reply in replies]
            spans.append((len(reply.prompt), len(so_far), reply.weight))
        return [_row(whole[: spans[-1][1]], spans)]

    def _reply(self, conversation: Conversation, at: int) -> Reply:
        prompt = self._text(conversation.messages[:at], generate=True)
        text = self._text(conversation.messages[: at + 1])
        if not text.startswith(prompt):
            raise InvalidDataset(
                f"Line {conversation.line}: the chat template does not render message {at} after its own "
                "generation prompt, so the tokens of the reply cannot be told from those of the prompt."
            )
        prompt_tokens, tokens = self._tokens(prompt), self._tokens(text)
        if tokens[: len(prompt_tokens)] != prompt_tokens:  # a token merges across the border
            tokens = prompt_tokens + self._tokens(text[len(prompt) :])
        reply = tokens[len(prompt_tokens) :]
        end = self._end_of_turn(reply)
        if end is None:
            raise InvalidDataset(
                f"Line {conversation.line}: message {at} does not end in an end-of-turn token, so the adapter "
                "would never learn to stop."
            )
        weight = conversation.messages[at].weight
        return Reply(prompt_tokens, reply[:end], reply[end:], weight)

    def _only(self, side: Conversation) -> RenderedRow:
        rows = self.rows(side)
        if len(rows) > 1:
            message = "the chat template cannot render several replies as one sequence"
            raise InvalidDataset(
                f"Line {side.line}: {message}; compare one reply with another.",
                details=[{"line": side.line, "code": "chat_template", "message": message}],
            )
        return rows[0]

    def _end_of_turn(self, reply: list[int]) -> int | None:
        """Index after the last stop token, if only whitespace follows it."""
        for end in range(len(reply), 0, -1):
            if reply[end - 1] in self._stop_tokens:
                return end if not self._tokenizer.decode(reply[end:]).strip() else None
        return None

    def _text(self, messages: Sequence[Message], *, generate: bool = False) -> str:
        turns: list[dict[str, Any]] = [
            {"role": message.role, "content": message.content} for message in messages
        ]
        text: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generate
        )
        return text

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def stop_tokens(configured: int | list[int] | None, tokenizer: Any) -> frozenset[int]:
    """What vLLM stops at: the tokenizer's end-of-sequence token and those that the generation config names."""
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if token is not None)


def _own_row(reply: Reply) -> RenderedRow:
    start = len(reply.prompt)
    return _row(reply.prompt + reply.reply, [(start, start + len(reply.reply), reply.weight)])


def _row(tokens: list[int], spans: list[tuple[int, int, float]]) -> RenderedRow:
    """`spans`: start, stop and weight of what is trained."""
    weights = [0.0] * len(tokens)
    for start, stop, weight in spans:
        weights[start:stop] = [weight] * (stop - start)
    weights[0] = 0.0
    return RenderedRow(tokens, weights)


def _nothing_to_train(example: Example) -> InvalidDataset:
    message = "no token of this row counts in the loss"
    return InvalidDataset(
        f"Line {example.line}: {message}.",
        details=[{"line": example.line, "code": "nothing_to_train", "message": message}],
    )


def _not_supervised(example: Comparison) -> InvalidDataset:
    message = "rows that compare two replies need the method 'dpo'"
    return InvalidDataset(
        f"Line {example.line}: {message}.",
        details=[{"line": example.line, "code": "wrong_method", "message": message}],
    )
