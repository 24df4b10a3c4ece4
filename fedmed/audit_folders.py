"""Which kind of folder an auditor has at hand, who verifies it, and what came of it.

Why it exists: one command verifies whatever FedMed leaves on a disk: a site's home, a coordinator's or a consortium's
folder, one study of a coordinator, a simulation's run folder. Sites and servers are installed apart, so each brings
its own verifier.

Rules:
    * What a folder is follows from the files that every one of its kind has; nothing else is guessed.
    * Each problem is one line that names the file and, in a log, the entry.
    * A verifier reports all that it finds; it repairs nothing and needs no secret.

What it does not do: verify anything itself but chains.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fedmed.audit import ChainLog, Entry
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import digest

Kind = Literal["site", "coordinator", "consortium", "study", "run"]
MARKS: Final[dict[Kind, tuple[str, ...]]] = {
    "site": ("site.json",),
    "coordinator": ("signing.key", "coordinator.json"),
    "consortium": ("register.jsonl",),
    "study": ("plan.json", "state.json"),
    "run": ("config.yaml", "sites", "coordinator"),
}
"""What every folder of a kind holds."""
VERIFIERS: Final[dict[Kind, tuple[str, str]]] = {
    "site": ("fedmed_site.audit_folder", "verify_site_folder"),
    "coordinator": ("fedmed_server.audit_folder", "verify_coordinator"),
    "consortium": ("fedmed_server.audit_folder", "verify_consortium"),
    "study": ("fedmed_server.audit_folder", "verify_one_study"),
    "run": ("fedmed_server.audit_folder", "verify_simulated"),
}
"""The module and function that verifies each kind; loaded by name, since sites and servers don't know each other."""


@dataclass(slots=True)
class Findings:
    """What was verified in a folder (`good`), what is worth knowing (`notes`), and what is wrong, a line each."""

    root: Path
    good: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def chain(self, path: Path) -> Sequence[Entry]:
        """Return the entries of a chained log, or none and a problem; an absent file has no entries."""
        try:
            entries = ChainLog(path).entries()
        except IntegrityError as error:
            self.wrong(path, str(error).removeprefix("audit chain: "))
            return ()
        if entries:
            self.good.append(f"{self.name(path)}: {len(entries)} entries, head {digest(entries[-1])}")
        return entries

    def wrong(self, path: Path, what: str, *, entry: int | None = None) -> None:
        """Note a problem of a file, at an entry of it."""
        where = "" if entry is None else f" entry {entry}:"
        self.problems.append(f"{self.name(path)}:{where} {what}")

    def name(self, path: Path) -> str:
        """Return how a file is called in reports: below the folder that was given."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def add(self, other: "Findings") -> None:
        """Take in what was found in a folder below this one."""
        place = self.name(other.root)
        self.good += [f"{place}/{line}" for line in other.good]
        self.notes += [f"{place}/{line}" for line in other.notes]
        self.problems += [f"{place}/{line}" for line in other.problems]


def kind_of(folder: Path) -> Kind:
    """Return what kind of folder this is.

    Raises:
        UsageError: It is none that can be verified.
    """
    for kind, marks in MARKS.items():
        if all((folder / mark).exists() for mark in marks):
            return kind
    raise UsageError(
        f"{folder}: expected the folder of a site, a coordinator, a consortium, a study or a run, found none; check the"
        " path"
    )


def verify_folder(folder: Path) -> Findings:
    """Verify everything that is chained or signed in a folder.

    Raises:
        UsageError: It is none that can be verified.
    """
    module, function = VERIFIERS[kind_of(folder)]
    found: Findings = getattr(importlib.import_module(module), function)(folder)
    if kind_of(folder) == "run":
        for home in sorted((folder / "sites").iterdir()):
            if (home / "site.json").is_file():
                found.add(verify_folder(home))
    return found
