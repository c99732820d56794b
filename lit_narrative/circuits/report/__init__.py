"""The pages of circuit analyses."""
