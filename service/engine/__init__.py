"""vLLM: `start` knows how it is started, `client` how it is spoken to, and nobody else knows either."""
