"""The errors of this package: bad data, and stored bytes that are damaged."""


class ShardError(ValueError):
    """Shards that cannot be written or read; one line: which thing, what is wrong, what to do."""


class BackendError(Exception):
    """What a storage backend refuses; says what to do, and becomes a ShardError with an address."""


class DamageError(ShardError):
    """Stored bytes that are missing or wrong, however often they are fetched.

    Attributes:
        part: Index of the damaged member among those that were asked for, or position of its frame
            in the video; None if the whole shard is damaged.
    """

    def __init__(self, message: str, part: int | None = None) -> None:
        super().__init__(message)
        self.part = part
