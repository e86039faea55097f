"""From a conversation to tokens and targets, through the base model's own chat template.

The tokens are those that the engine will produce when it serves the same messages: the prompt is rendered with
`add_generation_prompt`, the reply is whatever the template puts after that. A conversation becomes one row where every
served prompt is a prefix of the whole; where it is not (templates that drop earlier reasoning, tokens that merge across
the border), it becomes one row for each trained reply, which is right for any template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jinja2 import TemplateError

from adapters.datasets.examples import Comparison, Conversation, Example, Message, Passage
from adapters.errors import InvalidDataset
from trainer.warm.rows import Row


@dataclass(frozen=True, slots=True)
class Reply:
    """One trained message: what the engine would see before it, and what it should say."""

    prompt: list[int]
    #: Through the end-of-turn token; whitespace that the template puts after it is context, not target.
    reply: list[int]
    rest: list[int]
    #: Of each of the reply's tokens in the loss.
    weight: float


class Speaker(Protocol):
    """What is needed of a base model to put examples into its words."""

    tokenizer: Any
    stop_tokens: frozenset[int]


class Renderer:
    """Turns examples into rows for one base model."""

    def __init__(self, base: Speaker) -> None:
        self._tokenizer = base.tokenizer
        self._stop_tokens = base.stop_tokens

    def rows(self, example: Example) -> list[Row]:
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

    def _passage(self, passage: Passage) -> Row:
        """Special tokens are added as the tokenizer does by itself, since that is how completions are served."""
        tokens = list(self._tokenizer(passage.text)["input_ids"])
        end = self._tokenizer.eos_token_id
        if end is not None and tokens[-1:] != [end]:
            tokens.append(end)
        if len(tokens) < 2:  # noqa: PLR2004  the first token is predicted by nothing
            raise _nothing_to_train(passage)
        return _row(tokens, [(0, len(tokens), 1.0)])

    def _conversation(self, conversation: Conversation) -> list[Row]:
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


def _own_row(reply: Reply) -> Row:
    start = len(reply.prompt)
    return _row(reply.prompt + reply.reply, [(start, start + len(reply.reply), reply.weight)])


def _row(tokens: list[int], spans: list[tuple[int, int, float]]) -> Row:
    """`spans`: start, stop and weight of what is trained."""
    weights_T = torch.zeros(len(tokens))
    for start, stop, weight in spans:
        weights_T[start:stop] = weight
    return Row(torch.tensor(tokens), weights_T)


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
