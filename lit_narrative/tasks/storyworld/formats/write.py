"""The writer of every format: from a world to the text of a file."""

import json
from typing import Literal

from lit_narrative.tasks.storyworld.formats.ink import write_ink
from lit_narrative.tasks.storyworld.formats.sweepweave.write import write_sweepweave
from lit_narrative.tasks.storyworld.formats.twee import write_twee
from lit_narrative.tasks.storyworld.world import World

Format = Literal["simple", "sweepweave", "ink", "twee"]


def write_world(world: World, to: Format) -> str:
    """The world as the text of a file.

    Args:
        world: any world.
        to: the format.

    Raises:
        UserError: The format is ink or Twee, and the world has what these cannot say.
    """
    match to:
        case "ink":
            return write_ink(world)
        case "twee":
            return write_twee(world)
        case "sweepweave":
            return json.dumps(write_sweepweave(world), ensure_ascii=False, indent=1) + "\n"
    return json.dumps(world.to_json(), ensure_ascii=False, indent=1) + "\n"
