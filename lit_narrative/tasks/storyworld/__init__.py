"""Interactive storyworlds as JSON: read, play, score, generate."""
