"""Causal language models: loading, tokens, sampling, log-probabilities, export."""
