"""Training in processes of its own: started quickly, as torchrun would, and killed."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

SPAWNER = multiprocessing.get_context("forkserver")
# Builds with workers use the server that multiprocessing shares: this one has torch loaded.
SERVER = forkserver.ForkServer()
SERVER.set_forkserver_preload(["train", "timm", "tests.processes"])


def fork(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start one process that has everything imported."""
    process = SPAWNER.Process(target=target, args=arguments)
    with patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
        process.start()
    return process


def start(count: int, target: Callable[..., None], *arguments: Any, **environment: str) -> Any:
    """Start `count` processes of one group, each with one thread on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"CUDA_VISIBLE_DEVICES": "", **environment}
    if count > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    group = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        group.append(fork(_work, shared | own, target, arguments))
    return group


def finish(group: list[BaseProcess], seconds: float = 300) -> list[int | None]:
    """Wait for all; their exit codes."""
    for process in group:
        process.join(seconds)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in group]


def _work(environment: dict[str, str], target: Callable[..., None], arguments: Any) -> None:
    import torch

    os.environ |= environment
    torch.set_num_threads(1)
    target(*arguments)


def train_with(*arguments: object) -> None:
    """`train.py` with these arguments."""
    import train

    sys.argv = ["train.py", *map(str, arguments)]
    train.main()
