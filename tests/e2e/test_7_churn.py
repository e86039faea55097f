"""More adapters than the engine holds, asked at random while they are loaded, promoted and rolled back.

`make churn` runs it at release size: 40 adapters over a live set of 8, ten minutes.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import httpx
import pytest

from adapters.layers import LinearLayers, read_layers
from adapters.settings import LedgerSettings
from tests.e2e.churn import DRIFT, PROMPTS, Churn, Said, alone, request, said
from tests.e2e.conftest import BASE, Stack
from tests.support.drawn_adapters import drawn_adapter
from tests.support.peft_adapters import packed

VERSIONS = 2
LOUDNESS = 0.1


@dataclass(frozen=True)
class Size:
    adapters: int
    prompts: int
    seconds: float


SIZES = {"ci": Size(12, 1, 40), "release": Size(len(PROMPTS) * 20, len(PROMPTS), 600)}


@pytest.fixture(scope="module")
def size(pytestconfig: pytest.Config) -> Size:
    return SIZES[pytestconfig.getoption("--churn", default="ci")]


@pytest.fixture(scope="module")
def versions(stack: Stack, size: Size) -> Iterator[dict[str, list[str]]]:
    """Of each adapter its versions, made of random numbers."""
    layers = read_layers(LedgerSettings(home=stack.home).base_model_dir(BASE))
    assert layers is not None
    names = [f"churn-{number:02}" for number in range(size.adapters)]
    yield {name: [bring(stack, name, nth, layers) for nth in range(VERSIONS)] for name in names}
    for name in names:
        assert stack.http.delete(f"/adapters/{name}").status_code == 200


def bring(stack: Stack, name: str, nth: int, layers: LinearLayers) -> str:
    made = drawn_adapter(f"{name}/{nth}", layers, base_model=BASE, loudness=LOUDNESS)
    files = {"archive": ("adapter.tar.gz", packed(made, zipped=True))}
    response = stack.http.post("/adapters", files=files, data={"name": name})
    assert response.status_code == 201, response.text
    return str(response.json()["version"])


@pytest.fixture(scope="module")
def expected(
    stack: Stack, versions: dict[str, list[str]], size: Size
) -> dict[tuple[str, str], Said]:
    """What the base model and each version says while nobody else is asked."""
    models = [BASE, *(version for own in versions.values() for version in own)]
    prompts = PROMPTS[: size.prompts]
    return {
        (model, prompt): alone(stack.http, model, prompt) for model in models for prompt in prompts
    }


def test_each_version_says_something_of_its_own(expected: dict[tuple[str, str], Said]) -> None:
    """Else an answer of a wrong one would pass for right."""
    for (one, asked), (other, asked_too) in combinations(expected, 2):
        if asked == asked_too:
            alike = expected[one, asked].against(expected[other, asked], within=2 * DRIFT)
            assert alike.flaw is not None, f"{one} and {other} say the same"


def test_in_a_batch_with_adapters_the_base_model_says_what_it_says_alone(
    stack: Stack, versions: dict[str, list[str]], expected: dict[tuple[str, str], Said]
) -> None:
    """By now there have been more loads than vLLM has slots, so that none of them is empty."""
    asked = [BASE, *(own[-1] for own in list(versions.values())[:3]), BASE]
    answers = asyncio.run(together(stack, asked, PROMPTS[0]))
    for model, answer in zip(asked, answers, strict=True):
        likeness = expected[model, PROMPTS[0]].against(answer)
        assert likeness.flaw is None, f"{model}: {likeness.flaw}"


async def together(stack: Stack, models: list[str], prompt: str) -> list[Said]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=120) as http:
        asked = [http.post("/v1/completions", json=request(model, prompt)) for model in models]
        return [said(answer.json()["choices"]) for answer in await asyncio.gather(*asked)]


def test_nobody_asks_the_engine_for_the_base_model_without_its_adapter_of_zeros(
    stack: Stack,
) -> None:
    refused = stack.http.post("/v1/completions", json=request(f"{BASE}@bare", PROMPTS[0]))
    assert refused.status_code == 404


def test_every_answer_is_that_of_the_version_it_names_as_if_that_were_alone(
    stack: Stack,
    versions: dict[str, list[str]],
    expected: dict[tuple[str, str], Said],
    size: Size,
    pytestconfig: pytest.Config,
) -> None:
    seed = str(pytestconfig.getoption("randomly_seed", default=0))
    sys.stdout.write(f"churn: seed {seed}, {size}\n")
    loads, gone = counted(stack, "load_duration_seconds_count"), counted(stack, "evictions_total")
    churn = Churn(stack.url, BASE, versions, expected, seed)
    asyncio.run(churn.run(size.seconds))
    tally = churn.tally
    loads, gone = (
        counted(stack, "load_duration_seconds_count") - loads,
        counted(stack, "evictions_total") - gone,
    )
    sys.stdout.write(f"churn: {tally}, {loads:.0f} loads, {gone:.0f} evictions\n")
    assert min(tally.of_base, tally.streams, tally.promotions, tally.rollbacks) > 0
    assert loads > len(versions)
    # More, and it would have to be asked whether rounding is all that it is.
    assert len(tally.near_ties) <= tally.answers / 50


def counted(stack: Stack, what: str) -> float:
    """A count of the service's own."""
    told = f'graft_adapter_{what}{{base_model="{BASE}"}} '
    [line] = [
        line for line in stack.http.get("/metrics").text.splitlines() if line.startswith(told)
    ]
    return float(line.removeprefix(told))
