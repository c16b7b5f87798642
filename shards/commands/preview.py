"""Frames of a set as a picture."""

from pathlib import Path

import numpy as np

from shards.commands.arguments import Url
from shards.errors import ShardError
from shards.format.shard_set import ShardSet


def preview(
    url: Url,
    out: Path = Path("preview.png"),
    videos: int = 4,
    frames: int = 5,
    key: str = "",
) -> str:
    """Draw frames with their masks and expressions.

    Args:
        url: Folder or URL of the set.
        out: The PNG to write.
        videos: How many, evenly spread over the set.
        frames: How many of each.
        key: Draw the videos whose key contains this.
    """
    # imports scipy and matplotlib, about a second, which no other command needs
    from shards.commands.contact_sheet import contact_sheet

    shard_set = ShardSet.open(url)
    matching = [video for video, row in enumerate(shard_set.videos) if key in row.key]
    if not matching or videos < 1 or frames < 1:
        raise ShardError(
            f"{shard_set.storage}: no video to draw; ask for at least one, with another --key"
        )
    num_videos = min(videos, len(matching))
    positions = np.linspace(0, len(matching) - 1, num_videos).round().astype(int)
    chosen = [matching[position] for position in positions]
    sheet = contact_sheet(shard_set, chosen, num_frames=frames)
    sheet.save(out)
    return f"wrote {out}"
