"""Training in processes of its own: started quickly, as torchrun would, and killed."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from unittest.mock import patch

SPAWNER = multiprocessing.get_context("forkserver")
# Builds with workers use the server that multiprocessing shares: this one has torch loaded.
SERVER = forkserver.ForkServer()
SERVER.set_forkserver_preload(["train", "timm", "tests.processes"])


def fork(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start one process that has everything imported."""
    process = SPAWNER.Process(target=target, args=arguments)
    # multiprocessing has no way to choose the server (Python 3.11): put ours in its place.
    with patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
        process.start()
    return process


def start(
    num_processes: int, target: Callable[..., None], *arguments: object, **environment: str
) -> list[BaseProcess]:
    """Start processes of one group, each with one thread on the CPU."""
    group_environment = {"CUDA_VISIBLE_DEVICES": "", **environment}
    if num_processes > 1:
        group_environment["MASTER_ADDR"] = "127.0.0.1"
        group_environment["MASTER_PORT"] = str(free_port())
        group_environment["WORLD_SIZE"] = str(num_processes)
    group = []
    for rank in range(num_processes):
        process_environment = dict(group_environment)
        if num_processes > 1:
            process_environment["RANK"] = str(rank)
            process_environment["LOCAL_RANK"] = str(rank)
        group.append(fork(_work, process_environment, target, arguments))
    return group


def free_port() -> int:
    """A port that nobody listens on; somebody else may take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def finish(group: Sequence[BaseProcess], timeout_s: float = 300) -> list[int | None]:
    """Wait for all, kill who takes too long; their exit codes."""
    for process in group:
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in group]


def _work(
    environment: Mapping[str, str], target: Callable[..., None], arguments: Sequence[object]
) -> None:
    import torch

    os.environ |= environment
    torch.set_num_threads(1)
    target(*arguments)


def train_with(*arguments: object) -> None:
    """Run `train.py` with these arguments."""
    import train

    sys.argv = ["train.py", *map(str, arguments)]
    train.main()
