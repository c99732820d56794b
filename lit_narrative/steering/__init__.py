"""Steering a language model with frozen weights towards attributes: PPLM, its baselines, best of n."""
