"""Use a network without writing a program.

python -m sgmg predict VIDEO --text EXPRESSION --checkpoint FOLDER
python -m sgmg app --checkpoint FOLDER
python -m sgmg convert FILE OUT [--text FOLDER]
python -m sgmg replay DUMP
"""

import sys
from collections.abc import Sequence

import tyro

from sgmg.inference.app import app
from sgmg.inference.command import predict
from sgmg.published.convert import convert
from sgmg.training.replay import replay

COMMANDS = {it.__name__: it for it in (app, convert, predict, replay)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; 1 if a file, folder or setting is not what it should be."""
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m sgmg", args=arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
