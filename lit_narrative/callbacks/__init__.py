"""Callbacks: evaluation, writers, monitors, the refresh of the SAE, circuit analysis."""
