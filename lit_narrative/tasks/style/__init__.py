"""Authorial style: books, the pairs that judges learn from, prompts, rewards and evaluation."""
