"""One video of a set as tables."""

from shards.commands.arguments import Url
from shards.commands.table import format_table
from shards.errors import ShardError
from shards.format.shard_set import ShardSet, VideoRow


def inspect(url: Url, key: str | None = None) -> str:
    """Show one video as a table.

    Args:
        url: Folder or URL of the set.
        key: Of the video; the first one if not given.
    """
    shard_set = ShardSet.open(url)
    row = _find_row(shard_set, key)
    shard = shard_set.manifest.shards[row.shard].name
    parts = [
        f"{row.key}  ({row.video_id})  {row.height} x {row.width}, {shard}",
        _objects_table(row),
        _expressions_table(row),
        _frames_table(row),
    ]
    return "\n".join(parts)


def _find_row(shard_set: ShardSet, key: str | None) -> VideoRow:
    """Return the row of a key; None stands for the first video."""
    for row in shard_set.videos:
        if key is None or row.key == key:
            return row
    raise ShardError(
        f"{shard_set.storage} has no video {key!r}; `python -m shards stats` tells what it has"
    )


def _objects_table(row: VideoRow) -> str:
    return format_table([("object", "category"), *row.objects.items()])


def _expressions_table(row: VideoRow) -> str:
    lines = [("expression", "kind", "objects", "text")]
    for expression in row.expressions:
        objects = " ".join(expression.objects)
        lines.append((expression.id, expression.kind, objects, expression.text))
    return format_table(lines)


def _frames_table(row: VideoRow) -> str:
    lines: list[tuple[object, ...]] = [
        ("frame", "name", "image", "bytes", "offset", "mask bytes", "objects visible")
    ]
    for frame, name in enumerate(row.frame_names):
        spans = row.spans(frame)
        image = spans[0]
        if row.annotated[frame]:
            mask_bytes = str(spans[1].size)
            visible = " ".join(name for name, frames in row.visible.items() if frames[frame])
        else:
            # nobody looked for objects in a frame without ground truth
            mask_bytes = "-"
            visible = "?"
        lines.append(
            (frame, name, row.extensions[frame], image.size, image.offset, mask_bytes, visible)
        )
    return format_table(lines)
