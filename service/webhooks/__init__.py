"""Webhooks: whom we dare to call, how a call is signed and made, and who makes it."""
