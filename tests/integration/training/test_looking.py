"""Who looks before there is a job sees what training will see: the same tokens, the same mask, the same steps."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from adapters.datasets import check_dataset
from adapters.spec import Dpo, Supervised
from service.footprint import read_footprint
from service.forecast import plan
from service.tokens.messages import Count, Show
from service.tokens.process import TokenProcess
from tests.integration.training.tiny import make_base, make_spec
from trainer.warm.data import prepare
from trainer.warm.objective import objective_of
from trainer.warm.render import Renderer

FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('|')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALL = 10_000


def turns(*contents: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)
    ]


def talk(*contents: str, **weights: float) -> dict:
    found = turns(*contents)
    for at, weight in weights.items():
        found[int(at.removeprefix("at"))]["weight"] = weight
    return {"messages": found}


ROWS = {
    "input_target": [{"input": "who?", "target": "the fox", "system": "be kind"}],
    "messages": [
        talk("hi", "hello", "and?", "fine, thanks"),
        talk("hi", "hello", "and?", "fine", at1=0, at3=0.25),
        talk("hi", "one", "and?", "two", "so?", "three", at1=0.5, at3=0.5),
    ],
    "prompt_completion": [
        {"prompt": "what is the capital of", "completion": " france"},
        {"prompt": turns("a", "b", "c"), "completion": turns("", "d")[1:]},
    ],
    "alpaca": [{"instruction": "jump", "input": "over the dog", "output": "no\nthanks"}],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "caf\u00e9"}]}
    ],
    "text": [{"text": "the quick brown fox"}, {"text": "jumps \U0001f98a over"}],
    "preference": [
        {"prompt": "which?", "chosen": "the quick one", "rejected": "the lazy one"},
        {"chosen": turns("a", "b", "c", "good"), "rejected": turns("a", "b", "c", "bad")},
    ],
    "openai_preference": [
        {
            "input": {"messages": turns("which?")},
            "preferred_output": turns("", "this")[1:],
            "non_preferred_output": turns("", "that one")[1:],
        }
    ],
}


@pytest.fixture
async def process():
    process = TokenProcess(idle_seconds=60)
    yield process
    await process.close()


@pytest.fixture
def forgetful(tmp_path):
    """Makes the tiny base model's directory one with a template that drops earlier reasoning."""

    def make(model_dir: Path) -> Path:
        for file in model_dir.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "chat_template.jinja").write_text(FORGETFUL)
        return tmp_path

    return make


def trained_on(base, data: Path, spec):
    """What a job with that data holds, in the order of the file."""
    samples_of = partial(objective_of(spec.method, None).samples, Renderer(base))
    steps = prepare(samples_of, data, None, spec)
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        return ended.value


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def looked_at(process, model_dir: Path, data: Path, max_seq_length: int = ALL):
    show = Show(
        directory=model_dir, data=data, max_seq_length=max_seq_length, rows=20, most_tokens=ALL
    )
    count = Count(
        directory=model_dir,
        data=data,
        max_seq_length=max_seq_length,
        most_rows=ALL,
        most_seconds=600,
    )
    return (await process.ask(show)).sequences, await process.ask(count)


def assert_the_same(sequences, counted, dataset) -> None:
    rows = [row for sample in dataset.samples for row in sample.rows]
    assert [list(shown.input_ids) for shown in sequences] == [row.tokens_T.tolist() for row in rows]
    for shown, row in zip(sequences, rows, strict=True):
        weights = [0.0] * shown.num_tokens
        for span in shown.spans:
            weights[span.start : span.stop] = [span.weight] * (span.stop - span.start)
        assert weights == row.weights_T.tolist()
        assert (shown.num_tokens, shown.num_trained_tokens) == (len(row), row.targets)
    assert counted.samples == len(dataset.samples)
    assert counted.tokens == sum(sample.tokens for sample in dataset.samples)
    assert counted.trained_tokens == sum(sample.targets for sample in dataset.samples)
    assert counted.longest == max(len(row) for row in rows)


@pytest.mark.parametrize("shape", ROWS)
async def test_every_format_is_shown_and_counted_as_it_is_trained(
    process, base, model_dir, tmp_path, shape
):
    data = write(tmp_path / "rows.jsonl", ROWS[shape])
    report = check_dataset(data)
    assert (report.format, report.valid) == (shape, True)
    spec = make_spec(
        method=Dpo() if report.compares else Supervised(),
        validation_split=0.0,
        max_seq_length=ALL,
    )
    dataset = trained_on(base, data, spec)
    assert_the_same(*await looked_at(process, model_dir, data), dataset)


async def test_a_template_that_makes_several_rows_of_one_is_seen_through(
    process, model_dir, forgetful, tmp_path
):
    directory = forgetful(model_dir)
    base = make_base(directory)
    data = write(tmp_path / "rows.jsonl", [talk("a", "think|b", "c", "think|d"), talk("e", "f")])
    spec = make_spec(validation_split=0.0, max_seq_length=ALL)
    dataset = trained_on(base, data, spec)
    assert len(dataset.train) == 3
    sequences, counted = await looked_at(process, directory, data)
    assert_the_same(sequences, counted, dataset)
    assert [shown.line for shown in sequences] == [1, 1, 2]


async def test_steps_are_foreseen_with_what_is_held_out_left_out_and_repeated(
    process, base, model_dir, tmp_path
):
    rows = [talk(f"number {at}", "fox " * (200 if at % 9 == 0 else 1 + at % 5)) for at in range(80)]
    data = write(tmp_path / "rows.jsonl", rows + rows[:7])
    spec = make_spec(max_seq_length=100, batch_size=7, n_epochs=3)
    dataset = trained_on(base, data, spec)
    _, counted = await looked_at(process, model_dir, data, max_seq_length=100)
    report = check_dataset(data)
    course = plan(spec, rows=report.rows - report.duplicates, held_out=None, counted=counted)
    assert course.dropped_rows == counted.too_long == dataset.too_long == 9
    assert (course.train_samples, course.valid_rows) == (len(dataset.train), len(dataset.valid))
    assert course.steps_per_epoch == -(-len(dataset.train) // 7)
    assert course.steps == 3 * course.steps_per_epoch
    # Which rows are held out is chance, so that their tokens can only be foreseen about.
    assert course.tokens_per_epoch == pytest.approx(dataset.tokens, rel=0.05)
    assert course.trained_tokens_per_epoch == pytest.approx(dataset.targets, rel=0.2)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_an_adapter_is_as_large_as_foreseen(base, model_dir, targets):
    spec = make_spec().lora
    spec = replace(spec, target_modules=targets)
    size = read_footprint(model_dir, base.card.linear_modules)
    adapter = base.new_adapter(spec, seed=1)
    assert size.adapter_parameters(spec) == adapter.weights_P.numel()
    held = (adapter.weights_P, adapter.gradient_P, adapter.first_moment_P, adapter.second_moment_P)
    assert size.adapter_bytes(spec) == sum(buffer.nbytes for buffer in held)
    weights = {id(one): one.numel() for one in base.decoder.parameters()}
    assert size.parameters == sum(weights.values())
