"""Two workers share the machine: each computes with one thread, and the files with long tests begin."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long file that starts last runs alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
