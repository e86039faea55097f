"""`graft up`: starts every process on one machine, restarts what dies, and leaves nothing behind."""
