"""The ledger's tables and every statement that touches them: the only code that knows SQL."""
