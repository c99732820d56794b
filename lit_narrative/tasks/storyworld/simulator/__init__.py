"""The simulator: plays of a world, and what they show."""
