"""Fixtures of this folder."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.debian import MissingError
from tests.shards.ceph import ceph


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real S3 server; its user's keys are AK and SK."""
    with ExitStack() as stack:
        try:
            endpoint = stack.enter_context(ceph(tmp_path_factory.mktemp("ceph")))
        except MissingError as error:
            pytest.skip(f"no Ceph: {error}")
        yield endpoint
