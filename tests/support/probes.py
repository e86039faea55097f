"""Probes as training would record them, had it trained what the fake engine computes."""

from dataclasses import replace
from pathlib import Path

from adapters.manifest import Manifest, Probe
from tests.support.fake_answers import logprobs

PROMPTS = ((5, 17, 3, 9, 11, 2), (8, 8, 1, 30))
REPLY = 2


def probes_of(directory: Path) -> tuple[Probe, ...]:
    """What the adapter in that directory and its base model think of two short replies."""
    return tuple(
        Probe(
            token_ids=prompt,
            reply_start=REPLY,
            adapter_logprobs=tuple(logprobs(prompt, directory)[REPLY - 1 :]),
            base_logprobs=tuple(logprobs(prompt, None)[REPLY - 1 :]),
        )
        for prompt in PROMPTS
    )


def probed(manifest: Manifest, directory: Path) -> Manifest:
    """The manifest with the probes of the adapter in that directory."""
    return replace(manifest, probes=probes_of(directory))
