import os
from pathlib import Path

import pytest

from shards.storage.aws_profile import aws_profile


@pytest.fixture(autouse=True)
def profile_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no profile of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def write_profiles(folder: Path) -> None:
    (folder / "AWS_CONFIG_FILE").write_text(
        "[default]\nregion = eu-north-1\n[profile lab]\nendpoint_url = http://store:1\n"
    )
    (folder / "AWS_SHARED_CREDENTIALS_FILE").write_text(
        "[lab]\naws_access_key_id = A\naws_secret_access_key = S%\naws_session_token = T\n"
    )


def test_without_profiles_nothing_is_set() -> None:
    assert aws_profile() == {}


def test_the_default_profile_is_read(tmp_path: Path) -> None:
    write_profiles(tmp_path)
    assert aws_profile() == {"region": "eu-north-1"}


def test_a_named_profile_is_read_from_both_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_profiles(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert aws_profile() == {
        "endpoint": "http://store:1",
        "access_key_id": "A",
        "secret_access_key": "S%",
        "session_token": "T",
    }


def test_the_environment_wins_and_keys_are_not_mixed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_profiles(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert aws_profile() == {"endpoint": "http://store:1", "region": "us-east-1"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://other:2")
    assert aws_profile()["endpoint"] == "http://other:2"
