"""A kernel in C for the low-rank products of small jobs, compiled where it runs."""
