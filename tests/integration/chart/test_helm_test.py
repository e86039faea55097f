"""The program behind `helm test`, against a real service with a fake engine."""

import asyncio
import os
import subprocess
import sys

from tests.integration.chart.conftest import CHART
from tests.integration.service.conftest import BASE, Running, service

__all__ = ["service"]
SCRIPT = CHART / "files" / "tests" / "ask.py"


async def asked(url: str, what: str, model: str = BASE, **more: str) -> tuple[int, str]:
    environment = {**os.environ, "GRAFT_URL": url, **more}  # noqa: TID251
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), what, model),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_graft_that_works_passes(service: Running):
    for what in ("health", "models", "chat"):
        assert await asked(service.url, what) == (0, f"{what} ok\n")


async def test_a_model_that_is_not_there_fails(service: Running):
    code, said = await asked(service.url, "models", "nobody")
    assert (code, "nobody is not among the models" in said) == (1, True)


async def test_a_stream_that_breaks_off_fails(service: Running):
    service.engine.ends_before_event = 2
    code, _ = await asked(service.url, "chat")
    assert code == 1


async def test_an_engine_that_never_comes_fails_in_the_end(service: Running):
    await service.engine.kill()
    code, said = await asked(service.url, "chat", GRAFT_TEST_SECONDS="0")
    assert (code, "503" in said) == (1, True)


async def test_what_it_would_train_on_is_taken(service: Running):
    # There is no trainer here, and so no patience.
    code, said = await asked(service.url, "finetune", GRAFT_TEST_SECONDS="0")
    assert (code, "the job did not end in time" in said) == (1, True)
    assert service.ledger.jobs.count()["queued"] == 1
