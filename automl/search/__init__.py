"""The search: one driver that owns the study, asks, reports and tells. Knows Optuna.

Importing anything from this room makes `automl.search` the room itself. It is called all the same.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """`automl.search("digits", trials=20)`: see `automl.search.run.search`."""
        from automl.search.run import search

        return search(*args, **options)


sys.modules[__name__].__class__ = _Room
