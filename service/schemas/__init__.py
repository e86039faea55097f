"""Wire types: what clients send and get. The domain's own words are in `adapters.records`."""
