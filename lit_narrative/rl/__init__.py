"""Reinforcement learning without Lightning: losses, advantages, ratios; settings, rollouts, rewards."""
