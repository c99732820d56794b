"""Commands that need no trainer: one file each."""
