"""Where things are in a run's folder.

Layout of a run's folder:
    config.yaml            what was run
    hospitals/             raw tables of synthetic hospitals (real ones stay where they are)
    sites/NAME/            one folder per site, as on an appliance
    consortium/            the consortium's key, which signs the roster
    coordinator/           all that a coordinator has: roster, base, checkpoints, results
    deployment/            with engine=processes: each party's own things, what they carry between them, and logs
    what-if/               copies for the arm without consolidation
    summary.json, index.html, metrics.csv, plots/

What it does not do: write or read any of it.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where things are in a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """What was run."""
        return self.root / "config.yaml"

    @property
    def hospitals(self) -> Path:
        """Raw tables of synthetic hospitals."""
        return self.root / "hospitals"

    @property
    def planted(self) -> Path:
        """Every identifier that the synthetic hospitals invented."""
        return self.hospitals / "planted.json"

    @property
    def left_out(self) -> Path:
        """How many of a publisher's rows no site got, by reason."""
        return self.root / "left_out.json"

    @property
    def sites(self) -> Path:
        """One folder per site."""
        return self.root / "sites"

    @property
    def consortium(self) -> Path:
        """What only the consortium has."""
        return self.root / "consortium"

    @property
    def consortium_key(self) -> Path:
        """The raw Ed25519 key that signs rosters."""
        return self.consortium / "consortium.key"

    @property
    def roster(self) -> Path:
        """The signed roster, as the coordinator has it."""
        return self.coordinator / "roster.json"

    @property
    def deployment(self) -> Path:
        """The parties of a consortium whose processes run on this machine."""
        return self.root / "deployment"

    @property
    def coordinator(self) -> Path:
        """All that a coordinator has."""
        return self.root / "coordinator"

    @property
    def base(self) -> Path:
        """The public base model."""
        return self.coordinator / "base"

    def study(self, index: int) -> Path:
        """State and result of a study, counted from 0."""
        return self.coordinator / f"study-{index + 1}"

    @property
    def what_if(self) -> Path:
        """Copies of the sites, and the coordinator, of the arm without consolidation."""
        return self.root / "what-if"

    @property
    def deidentification(self) -> Path:
        """What de-identification did, by site."""
        return self.root / "deidentification.json"

    @property
    def seconds(self) -> Path:
        """Seconds by phase so far."""
        return self.root / "seconds.json"

    @property
    def summary(self) -> Path:
        """The result for scripts."""
        return self.root / "summary.json"
