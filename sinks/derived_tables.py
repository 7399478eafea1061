"""Tables that are made from the others, or beside them: not by the worker, and not by position in a log.

Each may be deleted and made again, but for `served`, which is a record of what was answered.
"""

from collections.abc import Sequence
from typing import Final

from sinks.lake_table import LakeTable

DERIVED_TABLES: Final[Sequence[LakeTable]] = ()
