"""HTTP in, tokens out. Async. No torch, no vLLM import."""
