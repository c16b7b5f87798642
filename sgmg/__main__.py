"""Use a network without writing a program.

python -m sgmg predict VIDEO --text EXPRESSION --checkpoint FOLDER
python -m sgmg app --checkpoint FOLDER
python -m sgmg convert FILE OUT [--text FOLDER]
python -m sgmg replay DUMP
"""

import sys
from collections.abc import Callable, Sequence

import tyro

from sgmg.inference.app import app
from sgmg.inference.command import predict
from sgmg.published.convert import convert
from sgmg.training.replay import replay

COMMANDS: dict[str, Callable[..., None]] = {
    "app": app,
    "convert": convert,
    "predict": predict,
    "replay": replay,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Args:
        arguments: Of the command line; those of this process by default.

    Returns:
        Exit status: 1 if a file, folder or setting is not what it should be.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m sgmg", args=arguments)
    # Users' mistakes: errors of data, checkpoints and settings are ValueErrors. All others are ours
    # and keep their traceback.
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
