"""The report of a card game run."""
