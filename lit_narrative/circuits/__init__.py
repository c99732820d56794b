"""Pure analysis of what a network has learned."""
