"""Fixtures of this folder."""

from collections.abc import Iterator

import pytest

from tests.debian import MissingError
from tests.shards.ceph import ceph


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real S3 server; its user's keys are AK and SK."""
    server = ceph(tmp_path_factory.mktemp("ceph"))
    try:
        endpoint = server.__enter__()
    except MissingError as error:
        pytest.skip(f"no Ceph: {error}")
    yield endpoint
    server.__exit__(None, None, None)
