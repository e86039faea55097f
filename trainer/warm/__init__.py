"""The warm training process: the base model stays loaded, jobs come and go. The only package that imports torch."""
