"""Interactive writing in the terminal."""
