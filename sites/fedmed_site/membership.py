"""Which consortium this site belongs to: its pinned key, the signed roster, and the site's own signing key.

Why it exists: the coordinator names the cohort of a round, so a site believes only
a list that the consortium key has signed, and never an older edition of it.

Rules:
    * The consortium key is pinned once, when the site joins; a roster of another key is refused.
    * A roster is replaced only by one of the same or a later serial; it is verified each time it is read.
    * The site stands in its roster under the key that it holds, or it takes no part.

What it does not do: fetch rosters, or make the consortium key.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.files import write_atomic
from fedmed.kits import open_coordinator
from fedmed.secagg.roster import Roster, verify_signature
from fedmed.secagg.roster_file import open_roster, roster_from_bytes
from fedmed_site.home import SiteHome


@dataclass(frozen=True, slots=True)
class Membership:
    """The consortium side of one site's folder."""

    home: SiteHome

    def pin(self, consortium_key: bytes) -> None:
        """Pin the consortium's key, once and for all.

        Args:
            consortium_key: 32 raw bytes of an Ed25519 public key, compared out of band.

        Raises:
            UsageError: Another consortium's key is pinned already.
        """
        path = self._key_path
        if path.is_file():
            if path.read_bytes() != consortium_key:
                raise UsageError("this site is pinned to another consortium key; leave that consortium first")
            return
        Ed25519PublicKey.from_public_bytes(consortium_key)
        write_atomic(path, consortium_key)

    def join(self, consortium_key: bytes, roster: bytes, *, now: datetime) -> Roster:
        """Pin the consortium's key and take in its roster.

        Args:
            consortium_key: 32 raw bytes of an Ed25519 public key, compared out of band.
            roster: The signed roster as a file.
            now: The present time, with its time zone.

        Raises:
            UsageError: Another consortium's key is pinned already.
            IntegrityError: The roster is not the consortium's, or not in force.
        """
        path = self._key_path
        if path.is_file():
            self.pin(consortium_key)
        verified = open_roster(
            roster, consortium_key=Ed25519PublicKey.from_public_bytes(consortium_key), least_serial=1, now=now
        )
        self.pin(consortium_key)
        self.renew(roster, now=now)
        return verified

    def renew(self, roster: bytes, *, now: datetime) -> Roster:
        """Replace the roster by a later edition.

        Raises:
            IntegrityError: It is not the pinned consortium's, not in force, or older than the one held.
        """
        held = self._roster_path
        least = roster_from_bytes(held.read_bytes()).roster.serial if held.is_file() else 1
        verified = open_roster(roster, consortium_key=self.consortium_key(), least_serial=least, now=now)
        write_atomic(self._roster_path, roster)
        return verified

    def roster(self, *, now: datetime) -> Roster:
        """Return the roster in force.

        Raises:
            RefusedError: The site has joined no consortium, or its roster is not in force.
            IntegrityError: What is stored does not verify.
        """
        if not self._roster_path.is_file():
            raise RefusedError("this site has joined no consortium yet, so it can't take part in secure aggregation")
        signed = roster_from_bytes(self._roster_path.read_bytes())
        verify_signature(signed, self.consortium_key())
        try:
            signed.roster.require_current(now)
        except IntegrityError as error:  # the coordinator may know it: the cure is a new roster, or the right clock
            raise RefusedError(str(error)) from None
        return signed.roster

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the key with which the site signs."""
        return Ed25519PrivateKey.from_private_bytes(self.home.signing_key_path.read_bytes())

    def public_key(self) -> bytes:
        """Return the raw public half of the signing key, 32 bytes, for the roster."""
        return self.signing_key().public_key().public_bytes_raw()

    def consortium_key(self) -> Ed25519PublicKey:
        """Return the pinned key of the consortium.

        Raises:
            IntegrityError: There is none, or it is damaged.
        """
        try:
            return Ed25519PublicKey.from_public_bytes(self._key_path.read_bytes())
        except (OSError, ValueError):
            raise IntegrityError("expected the consortium key that this site pinned, found none; join again") from None

    def coordinator_key(self, *, now: datetime) -> Ed25519PublicKey | None:
        """Return the key that this site's coordinator launches plans with, from its kit; None where there is no kit.

        Raises:
            IntegrityError: The kit's statement does not verify under the pinned key.
        """
        data = self.coordinator_statement()
        if not data:
            return None
        statement = open_coordinator(data, self.consortium_key(), now=now)
        return Ed25519PublicKey.from_public_bytes(statement.plan_key)

    def coordinator_statement(self) -> bytes:
        """Return the file in which the consortium names the coordinator, unverified; empty where there is no kit."""
        path = self.home.root / "tls" / "current" / "coordinator.json"
        return path.read_bytes() if path.is_file() else b""

    @property
    def _key_path(self) -> Path:
        return self.home.consortium / "consortium.key"

    @property
    def _roster_path(self) -> Path:
        return self.home.consortium / "roster.json"
