"""The facts of a finished study, as they lie beside its model.

Why it exists: the coordinator writes them, and whoever takes the model reads them without a coordinator.

Rules:
    * Of the sites there are names, and who evaluated; never a figure of one of them.

What it does not do: write or read folders (see `fedmed_server.result` and `fedmed.released.folder`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The facts of a finished study."""

    version: int = 1
    plan_digest: str
    rounds: int
    sites: tuple[str, ...]
    evaluated: tuple[str, ...]
    aggregation: str
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]
