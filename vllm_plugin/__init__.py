"""What runs inside vLLM's process on a CPU, and nowhere else: adapters as matrix products.

vLLM finds it by the entry point in `found/`, which `service/engine` puts on the path of engines without a GPU.
docs/adr/0039-inside-vllm-on-a-cpu.md.
"""
