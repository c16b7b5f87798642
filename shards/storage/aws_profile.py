"""The profile of `~/.aws/{credentials,config}`, which obstore does not look up by itself.

`obstore.auth.boto3` of obstore 0.12.1 would read the keys, but it needs boto3, which we do not ask
people to install, and it takes over the region only: the profile's `endpoint_url`, without which
no S3 server but Amazon's is found, would still have to be read here.
"""

import configparser
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import S3Config


def aws_profile() -> "S3Config":
    """Settings of obstore's S3 store; variables of the environment win over the profile."""
    profile = _read_profile(os.environ.get("AWS_PROFILE", "default"))
    settings: S3Config = {}
    region = (
        os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or profile.get("region")
    )
    if region:
        settings["region"] = region
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or profile.get("endpoint_url")
    )
    if endpoint:
        settings["endpoint"] = endpoint
    # Keys go together: those of the environment, which obstore finds, are not mixed with a
    # profile's session token.
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        if profile.get("aws_access_key_id"):
            settings["access_key_id"] = profile["aws_access_key_id"]
        if profile.get("aws_secret_access_key"):
            settings["secret_access_key"] = profile["aws_secret_access_key"]
        if profile.get("aws_session_token"):
            settings["session_token"] = profile["aws_session_token"]
    return settings


def _read_profile(name: str) -> dict[str, str]:
    """Entries of a profile in both files; those of the credentials win."""
    folder = Path.home() / ".aws"
    config = os.environ.get("AWS_CONFIG_FILE", folder / "config")
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", folder / "credentials")
    files = configparser.ConfigParser(interpolation=None)  # a key may hold "%"
    files.read([config, credentials])
    entries: dict[str, str] = {}
    # the config says [profile NAME], the credentials [NAME]; [default] is the same in both
    for section in (f"profile {name}", name):
        if section in files:
            entries |= dict(files[section])
    return entries
