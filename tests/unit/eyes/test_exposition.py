from prometheus_client.parser import text_string_to_metric_families

from service.engine.exposition import Exposition
from tests.support import fake_exposition


def merged(*base_models: str) -> str:
    told = Exposition()
    for number, base_model in enumerate(base_models):
        told.add(base_model, fake_exposition.text(base_model, answered=3 + number, running=2))
    return told.as_text()


def test_names_and_values_are_vllms_and_the_base_model_is_a_label() -> None:
    text = merged("a", "b")
    for model, tokens in (("a", 24.0), ("b", 32.0)):
        line = f'{{base_model="{model}",engine="0",model_name="{model}"}} {tokens}'
        assert f"vllm:generation_tokens_total{line}\n" in text


def test_a_family_is_told_once_with_the_samples_of_all_engines() -> None:
    text = merged("a", "b", "c")
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert text.count(f"# TYPE {family.name}") == 1
        assert {sample.labels["base_model"] for sample in family.samples} == {"a", "b", "c"}


def test_what_nobody_can_bound_and_what_is_not_vllms_stays_behind() -> None:
    text = merged("a")
    assert "lora_requests_info" not in text
    assert "process_" not in text
    assert "_created" not in text


def test_a_sample_without_labels_gets_its_one() -> None:
    told = Exposition()
    told.add('odd "one"\\', "# TYPE vllm:x gauge\nvllm:x 1.0\n# TYPE vllm:y gauge\nvllm:y{} 2.0\n")
    assert 'vllm:x{base_model="odd \\"one\\"\\\\"} 1.0\n' in told.as_text()
    assert 'vllm:y{base_model="odd \\"one\\"\\\\"} 2.0\n' in told.as_text()


def test_an_engine_that_says_nothing_leaves_nothing() -> None:
    told = Exposition()
    told.add("a", "")
    told.add("b", "not at all what Prometheus reads {{{")
    assert told.as_text() == ""
