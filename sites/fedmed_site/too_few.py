"""Views with too few training records, as this site has said once.

Why it exists: whether a view has enough records is read from data, so saying that it hasn't is an answer, and the first
time it is charged. The same answer again tells nothing new, and a study asks in every round.

Rules:
    * Written down before it is said. It stands for one version of the data and one view, whatever the plan.
    * It stands only while the policy asks for at least as many records as then: what was said follows from it.
    * A file that is missing costs a further charge; none can save one that tells anything.

What it does not do: count records, or charge.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from fedmed.errors import RefusedError
from fedmed.files import private_folder, write_atomic
from fedmed.records import DataSpec, canonical_json, decode, digest, require, require_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """That a view of one version of the data has fewer training records than `min_records`."""

    data: str
    min_records: int
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require_digest("data", self.data)
        require(self.min_records >= 1, f"min_records must be at least 1, got {self.min_records}")


class TooFew:
    """What one site has said of views with too few records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def refuse_again(self, data: DataSpec, *, version: str, min_records: int) -> None:
        """Raise if the site has said it of this view before, and it follows still.

        Args:
            data: The view; how it is normalised doesn't matter.
            version: Of the data set.
            min_records: What the policy asks for now.

        Raises:
            RefusedError: It has.
        """
        path = self._path(data)
        if not path.is_file():
            return
        said = decode(path.read_bytes(), _Said)
        if said.data == version and said.min_records <= min_records:
            raise too_few(min_records)

    def say(self, data: DataSpec, *, version: str, min_records: int) -> None:
        """Write down that a view has fewer training records than `min_records`."""
        private_folder(self._folder)
        write_atomic(self._path(data), canonical_json(_Said(data=version, min_records=min_records)))

    def _path(self, data: DataSpec) -> Path:
        return self._folder / f"{digest(replace(data, normalisation='public'))}.json"


def too_few(min_records: int) -> RefusedError:
    """Return the refusal."""
    return RefusedError(f"this site trains on {min_records} records or more; the view has fewer")
