"""Jobs in, adapters out. Sync. The only torch, and only in `trainer.warm`."""
