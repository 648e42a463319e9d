"""Prefetching: the one generator for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(items: Iterable[T], make: Callable[[T], R], threads: int, ahead: int) -> Generator[R, None, None]:
    """Yield `make(item)` for each item, in order, computed in `threads` threads while the caller uses earlier results.

    At most `ahead` results exist or are being computed, including the one that the caller uses. Items are taken from
    the iterable in the caller's thread. An error of `make` is raised in the result's turn. A caller that stops early
    waits only for computations that have started.
    """
    coming, pending = iter(items), deque[Future[R]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        try:
            while True:
                pending.extend(pool.submit(make, item) for item in islice(coming, ahead - len(pending)))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
