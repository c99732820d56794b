"""SweepWeave, the format of the storyworld editor of that name: detection, reading, writing, the editor's own rules."""
