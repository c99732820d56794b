"""File formats of storyworlds, read into the types of ``world.py`` and written from them."""
