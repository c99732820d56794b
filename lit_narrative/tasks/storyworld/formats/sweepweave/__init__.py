"""SweepWeave, the format of the storyworld editor of that name: reading, writing, the editor's own rules."""
