"""The report of a storyworld run."""
