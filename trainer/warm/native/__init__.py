"""Kernels in C for what takes longest on a CPU, compiled where they run."""
