"""Arguments that several commands share, as tyro reads them."""

from typing import Annotated

import tyro

Url = Annotated[str, tyro.conf.Positional]
Urls = Annotated[tuple[str, ...], tyro.conf.Positional]
