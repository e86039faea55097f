"""API keys: who asks, what that opens, and the gate that every request comes through."""
