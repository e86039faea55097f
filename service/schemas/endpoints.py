"""The paths of vLLM's that are offered here, with the fields of each and the words in which it speaks of errors."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from service.schemas.sampling import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    COUNT_FIELDS,
    DETOKENIZE_FIELDS,
    MESSAGE_FIELDS,
    RESPONSE_FIELDS,
    TOKENIZE_FIELDS,
)

Dialect: TypeAlias = Literal["completions", "responses", "messages"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the engine's."""

    path: str
    fields: frozenset[str]
    dialect: Dialect = "completions"
    #: What its streams end with; None where the transport alone tells.
    last_words: bytes | None = None
    #: Whether its answers are a model's own words, which cost tokens and which a shadow gets too; else it only counts.
    generates: bool = True
    #: Whether the engine can keep what it remembers of prompts apart, by `cache_salt`.
    salted: bool = False
    #: What traces call it, in the words of OpenTelemetry's conventions where they have one.
    operation: str = "chat"


CHAT = Endpoint("/v1/chat/completions", CHAT_FIELDS, last_words=b"[DONE]", salted=True)
COMPLETIONS = Endpoint(
    "/v1/completions",
    COMPLETION_FIELDS,
    last_words=b"[DONE]",
    salted=True,
    operation="text_completion",
)
RESPONSES = Endpoint("/v1/responses", RESPONSE_FIELDS, "responses", salted=True)
MESSAGES = Endpoint("/v1/messages", MESSAGE_FIELDS, "messages", salted=True)
COUNT_TOKENS = Endpoint(
    "/v1/messages/count_tokens",
    COUNT_FIELDS,
    "messages",
    generates=False,
    operation="count_tokens",
)
TOKENIZE = Endpoint("/tokenize", TOKENIZE_FIELDS, generates=False, operation="tokenize")
DETOKENIZE = Endpoint("/detokenize", DETOKENIZE_FIELDS, generates=False, operation="detokenize")
