"""Running the tasks of a build on Ray: this machine, or a cluster that runs already."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from shards.build.plan import Read, Runner, ShardTask
from shards.errors import ShardError
from shards.format.manifest import ShardRecord
from shards.format.schema import Video

_MAX_ATTEMPTS = 3  # for a shard whose worker dies


def on_ray(address: str | None, workers: int) -> Runner:
    """Make a runner for `build_set`: one Ray task a shard, given to another worker if one dies.

    Every machine must see the source under the same path and have this package installed.

    Args:
        address: Of a running cluster, "auto" for that of this machine; None: start one here.
        workers: Processes of the one started here; a running one has its own.

    Raises:
        ShardError: If Ray is not installed. The runner also raises it if there is no cluster at the
            address, or a shard fails.
    """
    try:
        import ray
    except ImportError:
        raise ShardError("Ray is not installed; install this package with its extra ray") from None

    def connect() -> None:
        # Ray's own log lines would be mixed with our progress
        if address is None:
            ray.init(
                "local",
                num_cpus=workers,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
            )
        else:
            ray.init(address, configure_logging=False, log_to_driver=False)

    def run(
        function: Callable[[ShardTask], ShardRecord], tasks: Sequence[ShardTask]
    ) -> Iterator[ShardRecord]:
        try:
            connect()
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ShardError(f"no Ray at {address or 'this machine'}: {error}") from None
        try:
            # The reader goes to the cluster once, not with each task: it may know all videos.
            shared_read = ray.put(tasks[0].read)

            def build(task: ShardTask, read: Read) -> ShardRecord:
                return function(replace(task, read=read))

            remote_build = ray.remote(num_cpus=1, max_retries=_MAX_ATTEMPTS - 1)(build)
            pending = [
                remote_build.remote(replace(task, read=_read_nothing), shared_read)
                for task in tasks
            ]
            while pending:
                ready, pending = ray.wait(pending)
                yield from ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # our own error, out of Ray's traceback
        except ray.exceptions.RayError as error:
            raise ShardError(
                f"a shard failed {_MAX_ATTEMPTS} times on Ray ({type(error).__name__}); run the "
                f"same command again: finished shards are kept"
            ) from None
        finally:
            ray.shutdown()

    return run


def _read_nothing(key: str) -> Video:
    """Stands for the reader while a task is on its way."""
    raise AssertionError(key)
