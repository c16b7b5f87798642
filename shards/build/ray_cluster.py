"""Running the tasks of a build on Ray: this machine, or a cluster that runs already."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from shards.build.writer import Runner, ShardTask
from shards.errors import ShardError
from shards.format.manifest import ShardRecord

_ATTEMPTS = 3


def on_ray(address: str | None, workers: int) -> Runner:
    """A runner for `build_set`: one Ray task a shard, given to another worker if one dies.

    Every machine must see the source under the same path and have this package installed.

    Args:
        address: Of a running cluster, "auto" for that of this machine; None: start one here.
        workers: Processes of the one started here; a running one has its own.

    Raises:
        ShardError: If Ray is not installed or not to be reached.
    """
    try:
        import ray
    except ImportError:
        raise ShardError("Ray is not installed; install this package with its extra ray") from None

    def run(function: Callable[..., ShardRecord], tasks: Sequence[ShardTask]) -> Iterator[Any]:
        try:
            own: Any = {} if address else {"num_cpus": workers, "include_dashboard": False}
            ray.init(address or "local", configure_logging=False, log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ShardError(f"no Ray at {address or 'this machine'}: {error}") from None
        try:
            read = ray.put(tasks[0].read)  # once, not with each task: it may know all videos

            def build(task: ShardTask, read: Any) -> ShardRecord:
                return function(replace(task, read=read))

            remote = ray.remote(num_cpus=1, max_retries=_ATTEMPTS - 1)(build)
            pending = [remote.remote(replace(it, read=_nothing), read) for it in tasks]
            while pending:
                ready, pending = ray.wait(pending)
                yield from ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise ShardError(
                f"a shard failed {_ATTEMPTS} times on Ray ({type(error).__name__}); run the same "
                f"command again: finished shards are kept"
            ) from None
        finally:
            ray.shutdown()

    return run


def _nothing(key: str) -> Any:
    """Stands for a reader on its way."""
    raise AssertionError(key)
