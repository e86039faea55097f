"""Benchmarks. Every figure is a ratio against a peer that was measured in the same run, turn and turn about."""
