"""De-identification at the site: policy, keyed pseudonyms, and tables made fit for training."""

from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import DeidReport, deidentify_table

__all__ = ["DeidPolicy", "DeidReport", "deidentify_table"]
