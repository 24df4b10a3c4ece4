"""De-identification at the site: policy, keyed pseudonyms, and tables made fit for training.

The names below are imported when they are first used: most commands need a pseudonym at most, and no table engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmed.deid.confirmed import ConfirmedColumn, ConfirmedTable
    from fedmed.deid.policy import DeidPolicy
    from fedmed.deid.readers import SqlTable
    from fedmed.deid.tabular import DeidReport, deidentify_table

__all__ = ["ConfirmedColumn", "ConfirmedTable", "DeidPolicy", "DeidReport", "SqlTable", "deidentify_table"]

_MODULES = {
    "ConfirmedColumn": "confirmed",
    "ConfirmedTable": "confirmed",
    "DeidPolicy": "policy",
    "DeidReport": "tabular",
    "SqlTable": "readers",
    "deidentify_table": "tabular",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
