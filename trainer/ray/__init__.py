"""Ray as the engine that places trainers: one for each device of a cluster. Jobs stay in the ledger."""
