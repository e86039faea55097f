"""A pytest plugin, `-p tests.support.light`: whoever imports something heavy fails.

`make check` uses it, so that the unit and conformance suites stay what they are meant to be: runnable without torch and
without vLLM, in seconds.
"""

import sys

HEAVY = ("torch", "transformers", "vllm", "peft", "safetensors", "tokenizers", "huggingface_hub")

for name in HEAVY:
    sys.modules[name] = None  # type: ignore[assignment]  # what makes `import name` an ImportError
