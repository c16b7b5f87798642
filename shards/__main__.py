"""Look at a shard set and check it.

python -m shards verify URL [--full] [--root DIR]
python -m shards inspect URL [--key KEY]
python -m shards stats URL [--plot FILE.png]
python -m shards preview URL [--out FILE.png]
python -m shards plan URL ... [--rank R --world-size W]
python -m shards bench URL ...
"""

import sys
from collections.abc import Callable, Sequence

import tyro

from shards.commands.bench import bench
from shards.commands.inspect import inspect
from shards.commands.plan import plan
from shards.commands.preview import preview
from shards.commands.stats import stats
from shards.commands.verify import verify

COMMANDS: dict[str, Callable[..., str]] = {
    "verify": verify,
    "inspect": inspect,
    "stats": stats,
    "preview": preview,
    "plan": plan,
    "bench": bench,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands and print its answer; 1 if a set is damaged or cannot be read."""
    try:
        answer = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m shards", args=arguments
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
