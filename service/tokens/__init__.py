"""Rows in tokens of a base model, without the base model: a child process that has its tokenizer."""
