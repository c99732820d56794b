"""Rewards: the protocol, running many of them, and those that every task can use."""
