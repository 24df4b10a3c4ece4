"""The folder that is a site: everything it owns, and nothing of it elsewhere.

Why it exists: a simulated hospital and an appliance have the same folder, so any
worker process can pick a site up and a restart forgets nothing.

Layout (version 1):
    site.json                  name, policy, and what of the machine studies may use
    keys/                      secrets that never leave the machine: pseudonym.key, signing.key, seal.key
                               (seal.key.next while it is rotated), and data/: wrapped data keys
    consortium/                the pinned key of the consortium and its signed roster
    secagg/                    sealed state of secure aggregation, and what the current round starts from
    data/NAME/                 schema and de-identified records
    audit.jsonl                hash-chained log of every item and every access
    receipts.jsonl             hash-chained log of what was uploaded and certified, and of the coordinator's receipts
    ledger/NAME.jsonl          privacy budget of a data set
    models/DIGEST/             public base models
    replies/PLAN/              answers that may already have left
    normalisation/             statistics a study was trained with
    evaluations/PLAN.jsonl     how models did on held-out records; stays here
    personal/PLAN/             this site's own model, under the rule that keeps one
    adapters/PLAN/             the shared adapter of a study, this site's own, and those of its departments
    studies/PLAN/              each plan that came, what the administrator decided, and the hours it took
    tls/                       the certificate of the consortium, and its sealed key
    left/                      sealed archives of consortia that the site has left
    run/                       the socket of the administrator's commands, while the agent runs
    site.log                   details that must not leave

What it does not do: interpret any of it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.errors import UsageError
from fedmed.files import write_atomic
from fedmed.records import MachineSpec, canonical_json, decode, require
from fedmed.secagg import store
from fedmed.secagg.state import ClientState
from fedmed_site.policy import SitePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecord:
    """The content of `site.json`."""

    name: str
    policy: SitePolicy
    machine: MachineSpec = field(default_factory=MachineSpec)
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        safe = self.name.replace("-", "").replace("_", "")
        require(safe.isalnum(), f"a site's name holds letters, digits, - and _, got {self.name!r}")


@dataclass(frozen=True, slots=True)
class SiteHome:
    """Where things are inside one site's folder."""

    root: Path

    @classmethod
    def create(
        cls, root: Path, record: SiteRecord, *, pseudonym_key: bytes, entropy: Callable[[int], bytes] = os.urandom
    ) -> "SiteHome":
        """Make a new site folder with keys of its own.

        Args:
            root: Created if absent.
            record: Name and policy.
            pseudonym_key: 32 secret bytes; a real site draws them from its operating system.
            entropy: Source of the signing key and of the key that seals state.

        Raises:
            UsageError: There is a site already, or the key has another length.
        """
        if len(pseudonym_key) != KEY_BYTES:
            raise UsageError(f"expected a pseudonym key of {KEY_BYTES} bytes, got {len(pseudonym_key)}")
        home = cls(root)
        if home.record_path.exists():
            raise UsageError(f"expected no site in {root}, found one; choose another folder")
        for folder in (
            root,
            home.keys,
            home.ledgers,
            home.models,
            home.replies,
            home.evaluations,
            home.normalisation,
            home.consortium,
            home.secagg,
            home.studies,
        ):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(home.pseudonym_key_path, pseudonym_key)
        write_atomic(home.signing_key_path, entropy(KEY_BYTES))
        write_atomic(home.seal_key_path, entropy(KEY_BYTES))
        seal_key = home.seal_key_path.read_bytes()
        store.save(home.secagg_state_path, ClientState(), site=record.name, site_key=seal_key, entropy=entropy)
        write_atomic(home.record_path, canonical_json(record))
        return home

    @classmethod
    def open(cls, root: Path, *, key_rotation: bool = False) -> "SiteHome":
        """Return the home of an existing site.

        Args:
            root: The folder.
            key_rotation: Whether a rotation of the seal key goes on here; nothing else opens a folder between keys.

        Raises:
            UsageError: There is no site in the folder, or a rotation of its seal key was cut short.
        """
        home = cls(root)
        if not home.record_path.is_file():
            raise UsageError(f"expected a site in {root}, found no site.json; create the site first")
        if home.next_seal_key_path.exists() and not key_rotation:
            raise UsageError("a rotation of this site's seal key was cut short; finish it with: fedmed site key rotate")
        return home

    def record(self) -> SiteRecord:
        """Return name, policy and machine."""
        return decode(self.record_path.read_bytes(), SiteRecord)

    @property
    def record_path(self) -> Path:
        """Name, policy and machine."""
        return self.root / "site.json"

    @property
    def keys(self) -> Path:
        """Folder of the site's secrets."""
        return self.root / "keys"

    @property
    def pseudonym_key_path(self) -> Path:
        """Key of tokens and date shifts."""
        return self.keys / "pseudonym.key"

    @property
    def signing_key_path(self) -> Path:
        """The raw Ed25519 key with which the site signs its part of secure aggregation."""
        return self.keys / "signing.key"

    @property
    def seal_key_path(self) -> Path:
        """The key under which the state of secure aggregation is sealed."""
        return self.keys / "seal.key"

    @property
    def next_seal_key_path(self) -> Path:
        """The new seal key, while a rotation is under way."""
        return self.keys / "seal.key.next"

    @property
    def consortium(self) -> Path:
        """Folder of the pinned consortium key and the signed roster."""
        return self.root / "consortium"

    @property
    def secagg(self) -> Path:
        """Folder of the state of secure aggregation."""
        return self.root / "secagg"

    @property
    def secagg_state_path(self) -> Path:
        """What the site has promised, sent and spent in secure aggregation, sealed."""
        return self.secagg / "state.sealed"

    def data(self, name: str) -> Path:
        """Folder of a de-identified data set."""
        return self.root / "data" / name

    @property
    def audit_path(self) -> Path:
        """The hash-chained log."""
        return self.root / "audit.jsonl"

    @property
    def receipts_path(self) -> Path:
        """The hash-chained log of uploads and of the coordinator's receipts."""
        return self.root / "receipts.jsonl"

    @property
    def ledgers(self) -> Path:
        """Folder of the privacy ledgers, one per data set."""
        return self.root / "ledger"

    @property
    def models(self) -> Path:
        """Folder of public base models by digest."""
        return self.root / "models"

    @property
    def replies(self) -> Path:
        """Folder of stored answers by plan."""
        return self.root / "replies"

    @property
    def evaluations(self) -> Path:
        """Folder of held-out results by plan; they never leave."""
        return self.root / "evaluations"

    @property
    def normalisation(self) -> Path:
        """Folder of the statistics that studies were trained with."""
        return self.root / "normalisation"

    @property
    def personal(self) -> Path:
        """Folder of this site's own models by plan."""
        return self.root / "personal"

    @property
    def studies(self) -> Path:
        """Folder of the plans that came, and of what was decided about them."""
        return self.root / "studies"

    @property
    def run(self) -> Path:
        """Folder of what exists only while the agent runs."""
        return self.root / "run"

    @property
    def lock_path(self) -> Path:
        """Held by the one process that acts for the site."""
        return self.root / "agent.lock"

    @property
    def log_path(self) -> Path:
        """Details that must not leave the site."""
        return self.root / "site.log"
