"""Adapters in PEFT's layout, looked at without torch: what an engine would refuse, or worse, ignore, is found here."""
