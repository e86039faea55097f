import json
from dataclasses import replace

from adapters.manifest import dump_manifest, load_manifest
from tests.support.samples import manifest, new_job

LATER = ("method", "rslora", "imported", "uniform")
LATER_IN_RESULT = (
    "skipped_steps",
    "dtype",
    "quantization",
    "served_valid_loss",
    "reward_accuracy",
    "train_accuracy",
    "valid_accuracy",
)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    plain = manifest(new_job())
    result = replace(plain.result, skipped_steps=2, dtype="bfloat16", quantization="nf4")
    result = replace(result, served_valid_loss=1.5, reward_accuracy=0.75)
    result = replace(result, train_accuracy=0.875, valid_accuracy=0.5)
    full = replace(plain, parent="bot@2", method="dpo", rslora=True, result=result)
    assert load_manifest(dump_manifest(full)) == full


def test_a_manifest_from_before_the_methods_loads_as_what_it_was() -> None:
    now = manifest(new_job())
    old = json.loads(dump_manifest(now))
    for name in LATER:
        del old[name]
    for name in LATER_IN_RESULT:
        del old["result"][name]
    loaded = load_manifest(json.dumps(old))
    assert loaded == now
    assert (loaded.method, loaded.rslora, loaded.result.dtype) == ("supervised", False, "float32")
