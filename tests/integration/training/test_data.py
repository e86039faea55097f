"""From examples to rows: exactly the reply and its end-of-turn token are targets, and prompts are as served."""

from dataclasses import replace
from functools import partial

import pytest

from adapters.datasets.examples import Conversation, Message, Passage
from adapters.errors import InvalidDataset
from adapters.spec import TrainingSpec
from tests.integration.training.tiny import make_base, make_spec
from trainer.warm.data import TokenisedFile, held_out_size, prepare, split, tokenise
from trainer.warm.objective import CrossEntropy
from trainer.warm.render import Renderer


def talk(*turns: tuple[str, str], line: int = 1) -> Conversation:
    """Assistant turns are trained, unless their role is written `assistant-`."""
    messages = tuple(
        Message(role=role.rstrip("-"), content=content, weight=float(role == "assistant"))
        for role, content in turns
    )
    return Conversation(line=line, messages=messages)


def decoded(base, row):
    """The whole text, and the targets' text."""
    tokens, targets = row.tokens_T.tolist(), row.tokens_T[row.targets_at_N].tolist()
    return base.tokenizer.decode(tokens), base.tokenizer.decode(targets)


def samples_of(base):
    return partial(CrossEntropy().samples, Renderer(base))


def exhaust(generator):
    try:
        while True:
            next(generator)
    except StopIteration as ended:
        return ended.value


@pytest.fixture
def with_template(model_dir):
    """A base whose tokenizer has another chat template."""

    def make(template):
        base = make_base(model_dir)
        base.tokenizer.chat_template = template
        return base

    return make


def test_the_reply_and_its_end_of_turn_are_targets_and_nothing_else(base):
    (row,) = Renderer(base).rows(talk(("user", "who are you?"), ("assistant", "a fox")))
    text, targets = decoded(base, row)
    assert targets == "a fox<|im_end|>"
    assert text.endswith("<|im_start|>assistant\na fox<|im_end|>")


def test_every_trained_turn_counts_and_untrained_ones_do_not(base):
    example = talk(
        ("system", "be a fox"),
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "and?"),
        ("assistant-", "ignored"),
        ("user", "well?"),
        ("assistant", "bye"),
        ("user", "never reached"),
    )
    (row,) = Renderer(base).rows(example)
    text, targets = decoded(base, row)
    assert targets == "hi<|im_end|>bye<|im_end|>"
    assert "never reached" not in text
    assert "ignored" in text


def test_the_prompt_is_what_an_engine_would_tokenise(base):
    messages = [{"role": "user", "content": "what is the capital of france?"}]
    served = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    (row,) = Renderer(base).rows(talk(("user", messages[0]["content"]), ("assistant", "paris")))
    first = int(row.targets_at_N[0])
    assert row.tokens_T[:first].tolist() == served


def test_a_template_that_drops_earlier_reasoning_gives_one_row_for_each_reply(with_template):
    forgetful = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('|')[-1] }}"
        "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    base = with_template(forgetful)
    example = talk(("user", "a"), ("assistant", "think|b"), ("user", "c"), ("assistant", "think|d"))
    first, second = (decoded(base, row) for row in Renderer(base).rows(example))
    assert first[1] == "think|b<|im_end|>"
    assert second[1] == "think|d<|im_end|>"
    assert "\nb<|im_end|>" in second[0]


def test_tokens_never_merge_across_the_border_of_prompt_and_reply(with_template):
    """The generation prompt ends in "t", the template puts the same before replies, and "the" is one token."""
    template = (
        "{% for m in messages %}{{ m['role'] }}\n{{ 't' if m['role'] == 'assistant' }}{{ m['content'] }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant\nt{% endif %}"
    )
    base = with_template(template)
    (row,) = Renderer(base).rows(talk(("user", "x"), ("assistant", "he fox")))
    text, targets = decoded(base, row)
    assert targets == "he fox<|im_end|>"
    assert text.endswith("assistant\nthe fox<|im_end|>")
    assert len(base.tokenizer("the")["input_ids"]) == 1


def test_a_reply_without_end_of_turn_is_refused(with_template):
    base = with_template(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(InvalidDataset, match="never learn to stop"):
        Renderer(base).rows(talk(("user", "x"), ("assistant", "y")))


def test_a_template_that_puts_the_reply_elsewhere_is_refused(with_template):
    base = with_template(
        "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InvalidDataset, match="own generation prompt"):
        Renderer(base).rows(talk(("user", "x"), ("assistant", "y")))


def test_what_the_template_refuses_is_an_error_with_the_line(with_template):
    base = with_template("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidDataset, match=r"Line 7: .*roles must alternate"):
        Renderer(base).rows(talk(("user", "x"), ("assistant", "y"), line=7))


def test_conversations_need_a_chat_template_but_passages_do_not(with_template):
    base = with_template(None)
    with pytest.raises(InvalidDataset, match="no chat template"):
        Renderer(base).rows(talk(("user", "x"), ("assistant", "y")))
    (row,) = Renderer(base).rows(Passage(line=1, text="the quick fox"))
    assert decoded(base, row)[0] == "the quick fox<|im_end|>"
    assert row.targets == len(row) - 1


def test_a_conversation_without_trained_messages_is_refused(base):
    with pytest.raises(InvalidDataset, match="no token of this row"):
        Renderer(base).rows(talk(("user", "x"), ("assistant-", "y")))


def test_overlong_rows_are_counted_and_left_out_whole(base):
    examples = [talk(("user", "hi"), ("assistant", "fox " * count)) for count in (1, 400, 2)]
    file = exhaust(tokenise(samples_of(base), examples, 100))
    assert (len(file.examples), file.too_long, file.duplicates) == (2, 1, 0)
    assert all(
        decoded(base, row)[1].endswith("<|im_end|>")
        for (sample,) in file.examples
        for row in sample.rows
    )


def test_duplicates_are_found_whatever_their_whitespace(base):
    examples = [
        talk(("user", "hi  there"), ("assistant", "caf\u00e9")),
        talk(("user", "hi there\n"), ("assistant", "cafe\u0301")),
        talk(("user", "hi there"), ("assistant", "Caf\u00e9")),
        Passage(line=4, text="hi there"),
        Passage(line=5, text="hi there"),
    ]
    file = exhaust(tokenise(samples_of(base), examples, 100))
    assert (len(file.examples), file.duplicates) == (3, 2)


@pytest.mark.parametrize(
    ("examples", "changes", "held_out"),
    [
        (49, {}, 0),
        (50, {}, 5),
        (99, {}, 9),
        (200, {}, 10),
        (1000, {}, 50),
        (100_000, {}, 500),
        (10, {"validation_split": 0.2}, 2),
        (10, {"validation_split": 0.01}, 1),
        (1, {"validation_split": 0.5}, 0),
        (1000, {"validation_split": 0.0}, 0),
    ],
)
def test_how_much_is_held_out(examples, changes, held_out):
    assert held_out_size(examples, replace(TrainingSpec(), **changes)) == held_out


def test_the_split_follows_from_the_seed(base):
    examples = [talk(("user", f"{at}"), ("assistant", f"{at}")) for at in range(60)]
    file = exhaust(tokenise(samples_of(base), examples, 100))
    one, same, other = (split(file, make_spec(seed=seed)) for seed in (1, 1, 2))

    def texts(samples):
        return {decoded(base, row)[0] for sample in samples for row in sample.rows}

    assert texts(one.valid) == texts(same.valid) != texts(other.valid)
    assert not texts(one.valid) & texts(one.train)
    assert len(one.train) + len(one.valid) == 60


def test_nothing_left_to_train_on_is_an_error(base):
    with pytest.raises(InvalidDataset, match="3 are longer"):
        split(TokenisedFile((), 0, 3), make_spec())


def test_a_validation_file_is_held_out_as_it_is(base, tmp_path):
    train, valid = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    row = '{{"messages": [{{"role": "user", "content": "{0}"}}, {{"role": "assistant", "content": "{0}"}}]}}\n'
    train.write_text("".join(row.format(f"t{at}") for at in range(60)))
    valid.write_text("".join(row.format(f"v{at}") for at in range(2)))
    dataset = exhaust(prepare(samples_of(base), train, valid, make_spec()))
    assert (len(dataset.train), len(dataset.valid)) == (60, 2)
    assert dataset.warnings() == ()
