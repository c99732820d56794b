"""Recipes and sweeps: files that list jobs, and the runner of the jobs."""
