"""Real vLLM under the suite that the fake engine passes in tests/conformance."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from adapters.cores import computing_dir, cores, memory_is_one
from adapters.settings import LedgerSettings
from bench.processes import cpu_seconds
from service.engine.client import VllmEngine
from service.engine.format import read_number_format
from service.settings import has_nvidia_gpu
from tests.conformance import engine_suite
from tests.e2e.conftest import BASE, ENGINE, Stack, find_process
from tests.e2e.facts import LUTZ, rows
from trainer.warm.presence import Presence

Check = Callable[[VllmEngine, str, Path], Awaitable[None]]


@pytest.fixture(scope="session")
def adapter(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter's directory."""
    if stack.http.get("/adapters/lutz").status_code == 404:
        stack.succeeded(stack.finetune(rows(LUTZ), "lutz", n_epochs=1, batch_size=1))
    digest = stack.http.get("/adapters/lutz").json()["versions"][0]["digest"]
    return LedgerSettings(home=stack.home).artifacts_dir / "versions" / digest


def test_the_engine_says_which_numbers_it_computes_in(stack: Stack) -> None:
    socket = LedgerSettings(home=stack.home).engine_socket(BASE)
    assert read_number_format(socket, otherwise="nothing") == (
        "auto" if has_nvidia_gpu() else "float32"
    )


def test_on_a_cpu_adapters_are_multiplied_by_our_plugin(stack: Stack) -> None:
    said = (stack.home / "logs" / f"{ENGINE}.log").read_text()
    assert ("Using GroupedPunica" in said) is not has_nvidia_gpu()


@pytest.mark.skipif(
    has_nvidia_gpu() or cores() < 2 or not memory_is_one(),
    reason="there is nothing to make room with, or vLLM has threads of its own",
)
def test_on_a_cpu_an_engine_makes_room_for_whoever_computes_too(stack: Stack) -> None:
    settings = LedgerSettings(home=stack.home)
    engine = find_process("VLLM::EngineCore")
    assert engine is not None
    assert find_process("VLLM::Worker") is None, "the model has a process of its own"

    def cores_in_use() -> float:
        computed, began = cpu_seconds(engine), time.monotonic()
        stack.chat(BASE, "Count to ten.", max_tokens=40, ignore_eos=True)
        return (cpu_seconds(engine) - computed) / (time.monotonic() - began)

    someone = Presence(computing_dir(settings.run_dir) / "test.trainer")
    alone = cores_in_use()
    someone.begin()
    try:
        beside = cores_in_use()
    finally:
        someone.end()
    assert beside < 0.8 * alone, (beside, alone)


@pytest.mark.parametrize("check", engine_suite.SUITE, ids=lambda check: check.__name__)
def test_vllm(check: Check, stack: Stack, adapter: Path) -> None:
    async def run() -> None:
        engine = VllmEngine(LedgerSettings(home=stack.home).engine_socket(BASE), BASE)
        try:
            await check(engine, BASE, adapter)
        finally:
            for name in await engine.loaded():
                if name.startswith("suite-"):
                    await engine.unload(name)
            await engine.close()

    asyncio.run(run())
