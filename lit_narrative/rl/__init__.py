"""Pure tensor mathematics of reinforcement learning."""
