"""The Feast repository: views derived from the catalog, the compare-and-set online store, fences, the registry.

Feast is imported late (it takes seconds) and through `load_feast` (it changes the process's metrics otherwise).
"""

import importlib
import os
import warnings
from types import ModuleType

# Before Feast, always: Feast puts prometheus_client into its multiprocess mode, which is decided at its first import.
import prometheus_client  # noqa: F401

_MULTIPROCESS_VARIABLES = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


def load_feast() -> ModuleType:
    """Import Feast without its side effects on metrics and warning filters; cheap from the second call on.

    Whoever needs Feast, or a module here that subclasses it, calls this first. Variables that were set before the
    call are left as they were.
    """
    before = {name: os.environ.get(name) for name in _MULTIPROCESS_VARIABLES}
    with warnings.catch_warnings():
        feast = importlib.import_module("feast")
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
    return feast
