"""Threads that make frames."""

import torch

from shards.stream.threads import frame_thread_pool


def test_torch_works_alone_in_the_threads_that_make_frames() -> None:
    def count() -> int:
        torch.zeros(1 << 18).mul_(2)  # the first work of a thread sets up its pool
        return torch.get_num_threads()

    threads_before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with frame_thread_pool(2) as pool:
            counts = [pool.submit(count) for _ in range(6)]
            assert {future.result() for future in counts} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads_before)
