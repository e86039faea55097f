"""The trainers we are measured against, each in a process of its own environment (`make bench-rivals`)."""
