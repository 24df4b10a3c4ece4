"""A consortium's office, a coordinator and sites in folders, with keys under key files: for tests of enrolment.

Every step is the real one, with its own clock; nothing is patched.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedmed.crypto.passphrases import Secret
from fedmed.kits import Floors, Invitation, OpenedKit, open_invitation
from fedmed_server import authority
from fedmed_server.consortium import OpenConsortium, files_of, make_consortium, open_consortium
from fedmed_server.coordinator_making import make_coordinator
from fedmed_site import joining
from fedmed_site.joining import Requested
from fedmed_site.policy import SitePolicy

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FLOORS = Floors(n_min=3, max_corrupt=0, max_weight=1000.0)


def key_file(number: int) -> Secret:
    """Return the content of a key file."""
    return Secret(kind="key-file", value=bytes([number]) * 32)


ROOT, COORDINATOR, SITE = key_file(1), key_file(2), key_file(3)


@dataclass(slots=True)
class Office:
    """A consortium in `folder/DIR`, its coordinator in `folder/COORD`, and sites in folders of their names."""

    folder: Path
    now: datetime = NOW
    name: str = "heart-net"
    homes: dict[str, Path] = field(default_factory=dict)

    @property
    def dir(self) -> Path:
        """The consortium's folder."""
        return self.folder / "DIR"

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "COORD"

    def founded(self) -> "Office":
        """Make the consortium and its coordinator."""
        make_consortium(self.dir, name=self.name, secret=ROOT, now=self.now)
        make_coordinator(
            self.opened(),
            self.coordinator,
            name="hub",
            hosts=("hub.example.org", "10.0.0.7"),
            port=8443,
            secret=COORDINATOR,
            now=self.now,
        )
        return self

    def opened(self) -> OpenConsortium:
        """Return the consortium with its keys."""
        return open_consortium(self.dir, ROOT, now=self.now)

    def invitation(self, site: str, *, days: int = 14, floors: Floors | None = FLOORS) -> bytes:
        """Invite a site."""
        statement = files_of(self.dir).coordinator.read_bytes()
        return authority.invite(self.opened(), site, coordinator=statement, floors=floors, now=self.now, days=days)

    def home(self, site: str) -> Path:
        """Return where a site's folder is."""
        return self.homes.setdefault(site, self.folder / site)

    def accepted(self, site: str, data: bytes, *, secret: Secret = SITE, new_keys: bool = False) -> Requested:
        """Let a site accept an invitation, as the command does."""
        invitation: Invitation = open_invitation(data, now=self.now)
        policy = SitePolicy(cap_epsilon=1.0, delta=1e-5)
        return joining.accept(
            self.home(site), invitation, data, secret=secret, policy=policy, new_keys=new_keys, now=self.now
        )

    def requested(self, site: str) -> bytes:
        """Invite a site and return the request with which it answers."""
        return self.accepted(site, self.invitation(site)).data

    def enrolled(self, request: bytes, *, roster: bytes | None = None) -> bytes:
        """Enrol the sender of a request and return the kit."""
        return authority.enrol(self.opened(), request, now=self.now, roster=roster).kit

    def renewed(self, request: bytes) -> bytes:
        """Renew the sender of a request and return the kit."""
        return authority.renew(self.opened(), request, now=self.now).kit

    def install(self, site: str, kit: bytes) -> OpenedKit:
        """Install a kit at a site."""
        return joining.install(self.home(site), kit, now=self.now)

    def joined(self, *sites: str) -> "Office":
        """Take sites through the whole way."""
        for site in sites:
            self.install(site, self.enrolled(self.requested(site)))
        return self

    def renewal(self, site: str) -> bytes:
        """Return a site's request to renew."""
        return joining.renew(self.home(site), secret=SITE, now=self.now).data


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` that says something, by path: what must not have changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.suffix != ".lock"
    }
