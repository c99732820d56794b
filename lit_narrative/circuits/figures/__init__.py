"""Figures of circuit analyses."""
