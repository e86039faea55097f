"""Adapters that nobody has trained: random weights in the shape of real ones. Each computes something of its own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapters.layers import LinearLayers
from adapters.ledger import Ledger
from adapters.manifest import Probe
from adapters.peft.unpack import CONFIG, WEIGHTS
from adapters.records import Version
from adapters.settings import DEMO_MODEL
from bench.workloads import ALPHA, FIRST_TOKEN, LAST_TOKEN, RANK
from service.engine.protocol import Engine
from tests.support.peft_adapters import good_adapter
from tests.support.samples import manifest, new_job, render

#: Of B's numbers; A's are as PEFT draws them. Log-probabilities are then some nats away from the base model's.
SPREAD_OF_B = 0.02
#: As training takes them (trainer/warm/probe.py): how many, tokens before the reply and of it.
PROBES, CONTEXT_TOKENS, REPLY_TOKENS = 2, 8, 12


def make_adapter(folder: Path, layers: LinearLayers, seed: int) -> Path:
    """A directory in PEFT's layout: float32, as training on a CPU writes it, all linear layers, 20 MB."""
    chance = torch.Generator().manual_seed(seed)
    made = good_adapter(rank=RANK, layers=layers, base_model=DEMO_MODEL)
    tensors = {}
    for name, stored in made.tensors.items():
        is_a = name.endswith("lora_A.weight")
        spread = (3 * stored.shape[1]) ** -0.5 if is_a else SPREAD_OF_B
        tensors[name] = spread * torch.randn(stored.shape, generator=chance)
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(made.config | {"lora_alpha": ALPHA}))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def prompt_of(seed: int, length: int) -> list[int]:
    """Random tokens of the demo model."""
    chance = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(FIRST_TOKEN, LAST_TOKEN, (length,), generator=chance).tolist()
    return drawn


async def probes_of(engine: Engine, folder: Path, seed: int) -> tuple[Probe, ...]:
    """What training would have recorded: here the engine says it, of the same files under another name."""
    name = f"bench-probes-{seed}"
    prompts = [prompt_of(at, CONTEXT_TOKENS + REPLY_TOKENS) for at in range(PROBES)]
    await engine.load(name, folder)
    try:
        adapted = await engine.logprobs(name, prompts)
        base = await engine.logprobs(DEMO_MODEL, prompts)
    finally:
        await engine.unload(name)
    assert adapted is not None, "the engine tells nothing of prompts"
    assert base is not None, "the engine tells nothing of prompts"
    return tuple(_probe(*one) for one in zip(prompts, adapted, base, strict=True))


def publish(ledger: Ledger, name: str, folder: Path, probes: Sequence[Probe] = ()) -> Version:
    """Make it a version of that adapter: the live one where it has no probes, so that the service brings it in at once.

    One with probes is nobody's live version: it comes in with the first request that names it.
    """
    ledger.jobs.submit(new_job(name, DEMO_MODEL), render=render)
    job = ledger.jobs.claim(worker="bench", base_model=DEMO_MODEL, lease_seconds=60, max_losses=1)
    assert job is not None, "the job that was just submitted is gone"
    told = replace(manifest(job), alpha=ALPHA, probes=tuple(probes))
    return ledger.registry.publish(job, folder, told, promote=not probes)


def _probe(prompt: list[int], adapted: Sequence[float], base: Sequence[float]) -> Probe:
    # What an engine says of a prompt begins with its second token.
    reply = slice(CONTEXT_TOKENS - 1, None)
    return Probe(
        token_ids=tuple(prompt),
        reply_start=CONTEXT_TOKENS,
        adapter_logprobs=tuple(adapted[reply]),
        base_logprobs=tuple(base[reply]),
    )
