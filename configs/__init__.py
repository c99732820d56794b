"""Complete, runnable configurations (shipped in the wheel)."""
