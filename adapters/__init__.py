"""The ledger: what exists and what was asked for. Sync. No torch, no HTTP."""
