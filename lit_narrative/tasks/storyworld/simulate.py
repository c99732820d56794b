"""What many seeded plays say about a world: its endings, dead ends, gates and variables."""

from lit_narrative.tasks.storyworld.plays import Chooser, Outcome, Play, Step, all_paths, play, plays, uniform

__all__ = ["Chooser", "Outcome", "Play", "Step", "all_paths", "play", "plays", "uniform"]
