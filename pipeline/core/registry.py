"""Registries: families of implementations, looked up by their names in params.yaml."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.core.errors import ParamsError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named implementations of one contract.

    With `package`, every module of that package is one implementation, registered under the file's name. A module is
    imported when it is first requested, so listing names is cheap.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers the decorated object under `name`. Raises ValueError if the name is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> tuple[str, ...]:
        """Every legal name, sorted."""
        return tuple(sorted({*self._entries, *self._module_names()}))

    def get(self, name: str) -> T:
        """The implementation registered under `name`.

        Raises:
            ParamsError: no such name; the message lists the legal ones.
        """
        if name not in self._entries and name in self._module_names():
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._entries:
            raise ParamsError(f"unknown {self.kind} '{name}'; choose one of: {', '.join(self.names())}")
        return self._entries[name]

    def _module_names(self) -> frozenset[str]:
        if self._package is None:
            return frozenset()
        path = importlib.import_module(self._package).__path__
        return frozenset(module.name for module in pkgutil.iter_modules(path))
