"""What a site's data looks like to the learner, whatever it was before.

Why it exists: training sees features, labels and names, and nothing of files,
patients or formats. A study is a `View` of the data: one target, and perhaps one
cohort such as the patients of a ward.

Rules:
    * Features are float32 in public-range units: `(x - centre) / scale`, clipped;
      0 stands for a missing value, i.e. the public centre.
    * A text or an image stands in the row before them, as `fedmed.rows` says.
    * The same schema gives the same feature names in the same order at every site.
    * A patient stands in train or in test, never in both.

What it does not do: read files, estimate statistics of its own accord or add noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fedmed.records import require

Split = Literal["train", "test"]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The part of a data set that one study is about."""

    target: str
    cohort_column: str | None = None
    cohort: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(
            bool(self.cohort) == (self.cohort_column is not None),
            "cohort and cohort_column are set together or not at all",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """The patients of one view and split: `features` float32 [n, d], `labels` int64 [n]."""

    features: Floats
    labels: Labels
    feature_names: Sequence[str]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        require(self.features.dtype == np.float32, f"features must be float32, got {self.features.dtype}")
        require(self.labels.dtype == np.int64, f"labels must be int64, got {self.labels.dtype}")
        expected = (len(self.labels), len(self.feature_names))
        require(self.features.shape == expected, f"features must have shape {expected}, got {self.features.shape}")
        require(bool(np.isfinite(self.features).all()), "features must be finite")

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """A site's data set, ready for training: what studies, adapters of departments and reports take of any data.

    `RowSource` is one, of rows and images in memory; `TabularSource` is one, of a folder that `prepare` wrote.
    """

    @property
    def features(self) -> Sequence[str]:
        """The feature names, in the order of the columns of every cohort."""

    @property
    def rows(self) -> int:
        """How many records there are, whatever a view uses of them."""

    def load(self, view: View, split: Split) -> Cohort:
        """Return the patients of `view` that stand in `split`.

        Raises:
            DataError: The view can't be trained on.
        """

    def load_parts(self, view: View, split: Split, column: str) -> dict[str, Cohort]:
        """Return the cohort of `load`, divided by the value that each record has in a category.

        Raises:
            DataError: As `load`, or the column is no category that models read.
        """

    def skipped(self, view: View) -> int:
        """Return how many records of the view's cohort are not used: a count of patients, which stays at the site."""


def standardise(cohort: Cohort, mean: npt.NDArray[np.floating], scale: npt.NDArray[np.floating]) -> Cohort:
    """Return `cohort` with features `(x - mean) / scale`; a scale of 0 (a constant feature) counts as 1.

    Args:
        cohort: Features in public-range units.
        mean: One mean per feature, in the same units.
        scale: One standard deviation per feature, at least 0.

    Raises:
        ValueError: The statistics do not have one finite entry per feature.

    >>> cohort = Cohort(features=np.float32([[1.0], [3.0]]), labels=np.int64([0, 1]), feature_names=("age",),
    ...                 classes=("no", "yes"))
    >>> standardise(cohort, np.array([2.0]), np.array([1.0])).features.tolist()
    [[-1.0], [1.0]]
    """
    width = (len(cohort.feature_names),)
    require(mean.shape == width and scale.shape == width, f"mean and scale must have shape {width}")
    require(bool(np.isfinite(mean).all() and np.isfinite(scale).all()), "mean and scale must be finite")
    require(bool((scale >= 0).all()), "scale must be at least 0")
    divisor = np.where(scale > 0, scale, 1.0)
    return replace(cohort, features=((cohort.features - mean) / divisor).astype(np.float32))
