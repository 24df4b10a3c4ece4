"""De-identification at the site: policy, keyed pseudonyms, and tables made fit for training."""

from fedmed.deid.confirmed import ConfirmedColumn, ConfirmedTable
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.readers import SqlTable
from fedmed.deid.tabular import DeidReport, deidentify_table

__all__ = ["ConfirmedColumn", "ConfirmedTable", "DeidPolicy", "DeidReport", "SqlTable", "deidentify_table"]
