"""A site joins: its keys stay, what comes in is verified, and what fails leaves nothing half-written."""

import base64
import shutil
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from offices import COORDINATOR, DAY, FLOORS, NOW, SITE, Office, key_file, tree

from fedmed.audit import ChainLog
from fedmed.crypto import statements
from fedmed.crypto.keyfiles import SUPERNODE, TLS_CLIENT, load_private_key
from fedmed.crypto.unsealed import key_openssh, key_pem
from fedmed.errors import FedMedError, IntegrityError, UsageError
from fedmed.kits import KIT, Floors, Kit, open_invitation
from fedmed.secagg.roster import Policy, Roster, RosterEntry, sign_roster
from fedmed.secagg.roster_file import roster_to_bytes
from fedmed_server import authority
from fedmed_server.coordinator_home import read_coordinator
from fedmed_server.coordinator_making import renew_coordinator
from fedmed_server.register import read_register
from fedmed_server.roster_drafts import DEFAULT_SEGMENTS
from fedmed_site import joining
from fedmed_site.audit_check import verify_site
from fedmed_site.home import SiteHome
from fedmed_site.identity import read_site_identity
from fedmed_site.membership import Membership


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a consortium, its coordinator and three enrolled sites."""
    return Office(tmp_path_factory.mktemp("founded")).founded().joined("north", "south", "west").folder


@pytest.fixture
def office(founded: Path, tmp_path: Path) -> Office:
    """Return a copy of it for one test."""
    shutil.copytree(founded, tmp_path / "office", symlinks=True)
    return Office(tmp_path / "office")


def roster_of(office: Office, *, serial: int = 1, n_min: int = 3, names: tuple[str, ...] = ()) -> bytes:
    """Return a signed roster of all members."""
    members = [one for one in read_register(office.dir).members if not names or one.site in names]
    sites = tuple(RosterEntry(site=one.site, signing_key=one.signing_key) for one in members)
    policy = Policy(n_min=n_min, max_corrupt=0, max_weight=FLOORS.max_weight, segments=DEFAULT_SEGMENTS)
    return roster_to_bytes(sign_roster(Roster(serial=serial, sites=sites, policy=policy), office.opened().root))


def test_a_joined_site_and_its_coordinator_shake_hands(office: Office):
    """What both sides read from their folders makes mutual TLS, by name; the peer is the site."""
    site = read_site_identity(office.home("north"), now=NOW)
    hub = read_coordinator(office.coordinator, now=NOW)
    shutil.copy(office.dir / "members.json", hub.members_path)
    assert (site.name, site.coordinator_host, site.coordinator_port) == ("north", "hub.example.org", 8443)
    assert site.consortium == hub.consortium
    hub.members().require_member(site.name, tls_serial=site.tls_serial)
    assert site.ca_path.read_bytes() == hub.ca_path.read_bytes()
    assert site.tls_context(SITE).check_hostname
    assert hub.server_context(COORDINATOR).verify_mode == ssl.CERT_REQUIRED


def test_flower_reads_the_supernodes_keys(office: Office, tmp_path: Path):
    """The unsealed file is what `flower-supernode` loads, and the public line what `flwr supernode register` loads."""
    site = read_site_identity(office.home("north"), now=NOW)
    with site.unsealed_supernode_key(SITE, folder=tmp_path) as path:
        private = load_ssh_private_key(path.read_bytes(), password=None)
        assert path.stat().st_mode & 0o777 == 0o600
    public = load_ssh_public_key(site.supernode_public_path.read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP384R1)
    assert private.public_key() == public
    assert list(tmp_path.glob("fedmed-key-*")) == []


def test_no_private_key_leaves_the_site(office: Office):
    """No file to carry, no register, no log and no file in clear has a private key, in any of its spellings."""
    secret, home = SITE, office.home("north")
    request, kit = office.renewal("north"), b""
    tls_next = load_private_key(home / "keys/tls.next.key", purpose=TLS_CLIENT).unseal_ecdsa(secret)
    kit = office.renewed(request)
    office.install("north", kit)
    site = read_site_identity(home, now=NOW)
    elliptic = [site.supernode_key(secret), site.tls_key(secret), tls_next]
    raw = [key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big") for key in elliptic]
    signing = (home / "keys/signing.key").read_bytes()
    needles = [*raw, signing, *(part.hex().encode() for part in (*raw, signing))]
    for key in elliptic:
        needles += [key_pem(key).split(b"\n")[1], key_openssh(key).split(b"\n")[2]]
    needles += [base64.b64encode(part)[:-4] for part in (*raw, signing)]
    carried = {"request": request, "kit": kit, **tree(office.dir), **tree(office.coordinator)}
    carried |= {name: data for name, data in tree(home).items() if name != "keys/signing.key"}
    for name, data in carried.items():
        for needle in needles:
            assert needle not in data, name
        assert b"PRIVATE KEY" not in data, name


def test_join_again_gives_the_waiting_request_again(office: Office):
    """The same invitation a second time changes no key: the request may have been lost on its way."""
    data = office.invitation("east")
    first = office.accepted("east", data)
    again = office.accepted("east", data)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.data == first.data
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        office.accepted("east", data, secret=key_file(9))
    office.install("east", office.enrolled(first.data))


def test_a_kit_twice_is_the_same_as_once(office: Office):
    """Installing what is installed changes nothing."""
    kit = (office.home("north") / "tls/current/kit.json").read_bytes()
    before = tree(office.home("north"))
    office.install("north", kit)
    assert tree(office.home("north")) == before


def test_an_older_kit_does_not_come_back(office: Office):
    """After a renewal, the kit before is for no waiting request, and a waiting one is not its."""
    old = (office.home("north") / "tls/current/kit.json").read_bytes()
    office.install("north", office.renewed(office.renewal("north")))
    with pytest.raises(UsageError, match="expected a request that waits for its kit, found none"):
        office.install("north", old)
    office.now = NOW + DAY
    office.renewal("north")
    with pytest.raises(IntegrityError, match="got one for other keys"):
        office.install("north", old)


Hostile = Callable[[Office, Path], bytes]


def _other_consortiums(office: Office, place: Path) -> bytes:
    other = Office(place).founded().joined("east")
    return (other.home("east") / "tls/current/kit.json").read_bytes()


def _other_sites(office: Office, _: Path) -> bytes:
    return (office.home("south") / "tls/current/kit.json").read_bytes()


def _other_keys(office: Office, place: Path) -> bytes:
    mine, office.homes["east"] = office.home("east"), place / "east"
    kit = office.enrolled(office.requested("east"))
    office.homes["east"] = mine
    return kit


def _changed(office: Office, _: Path) -> bytes:
    return office.enrolled((office.home("east") / "consortium/request.json").read_bytes()).replace(b"8443", b"8444")


def _authority_swapped(office: Office, place: Path) -> bytes:
    data = office.enrolled((office.home("east") / "consortium/request.json").read_bytes())
    other = Office(place).founded()
    kit = statements.parse(data, KIT, Kit).claim
    swapped = replace(kit, coordinator=(other.coordinator / "coordinator.json").read_text())
    return statements.sign(KIT, swapped, office.opened().root)  # even under the right root


def _cut(office: Office, _: Path) -> bytes:
    return office.enrolled((office.home("east") / "consortium/request.json").read_bytes())[:-200]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_other_consortiums, "if it is from another consortium, leave this one first"),
        (_other_sites, "expected one for east, the site in"),
        (_other_keys, "got one for other keys; send the request again"),
        (_changed, "ask for the kit again"),
        (_authority_swapped, "fetch coordinator.json again"),
        (_cut, "expected a fedmed-kit file, got another file"),
    ],
)
def test_a_hostile_kit_leaves_everything_as_it_was(office: Office, tmp_path: Path, make: Hostile, text: str):
    """One line with what to do, and not a byte of the site's folder is another; the right kit still installs."""
    office.requested("east")
    before = tree(office.home("east"))
    kit = make(office, tmp_path / "elsewhere")
    with pytest.raises(FedMedError, match=text) as caught:
        office.install("east", kit)
    assert "\n" not in str(caught.value)
    assert tree(office.home("east")) == before
    assert not (office.home("east") / "tls").exists()


def test_an_expired_kit_is_refused(office: Office):
    """A kit that lay about for three months is worth nothing."""
    kit = office.enrolled(office.requested("east"))
    office.now = NOW + 90 * DAY
    with pytest.raises(IntegrityError, match="certificate of east: expected one in force"):
        office.install("east", kit)
    assert not (office.home("east") / "tls").exists()


def test_a_full_disk_leaves_the_certificate_before(office: Office, monkeypatch: pytest.MonkeyPatch):
    """When the new generation cannot be written, the old one works on, and the same command succeeds later."""
    kit = office.renewed(office.renewal("north"))
    before = read_site_identity(office.home("north"), now=NOW)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("fedmed.generations.write_atomic", full)
        with pytest.raises(OSError, match="No space left"):
            office.install("north", kit)
    assert read_site_identity(office.home("north"), now=NOW) == before
    office.install("north", kit)
    assert read_site_identity(office.home("north"), now=NOW).tls_serial != before.tls_serial


def test_an_older_statement_about_the_coordinator_does_not_come_back(office: Office):
    """A good kit around a statement that was replaced meanwhile is refused: its plan key may be another since."""
    old = (office.coordinator / "coordinator.json").read_text()
    renew_coordinator(office.opened(), office.coordinator, hosts=(), port=None, secret=COORDINATOR, now=NOW)
    office.install("north", office.renewed(office.renewal("north")))
    office.now = NOW + DAY
    kit = statements.parse(office.renewed(office.renewal("north")), KIT, Kit).claim
    before = tree(office.home("north"))
    with pytest.raises(IntegrityError, match="expected the coordinator's statement 2 or later, got 1"):
        office.install("north", statements.sign(KIT, replace(kit, coordinator=old), office.opened().root))
    assert tree(office.home("north")) == before


def test_a_second_consortium_is_refused(office: Office, tmp_path: Path):
    """A site belongs to one consortium; another's invitation changes nothing."""
    other = Office(tmp_path / "other").founded()
    before = tree(office.home("north"))
    other.homes["north"] = office.home("north")
    with pytest.raises(UsageError, match="leave that consortium first"):
        other.accepted("north", other.invitation("north"))
    assert tree(office.home("north")) == before


def test_an_invitation_for_another_site_is_refused(office: Office):
    """The site in the folder keeps its name."""
    office.homes["east"] = office.home("north")
    with pytest.raises(UsageError, match=r"expected one for north, the site in .* got one for east"):
        office.accepted("east", office.invitation("east"))


def test_an_enrolled_site_is_told_how_to_renew(office: Office, tmp_path: Path):
    """Another invitation for a site that has joined needs --new-keys, because it would replace them."""
    again = Office(tmp_path / "again")
    shutil.copytree(office.dir, again.dir)
    authority.revoke(again.opened(), "north", reason="test", now=NOW)
    again.homes["north"] = office.home("north")
    with pytest.raises(UsageError, match=r"fedmed site renew; after a revocation: --new-keys"):
        again.accepted("north", again.invitation("north"))


def test_a_renewal_waits_while_the_certificate_works_on(office: Office):
    """Between request and kit nothing changes for the coordinator; asking again gives the same request."""
    before = read_site_identity(office.home("north"), now=NOW)
    first = office.renewal("north")
    assert read_site_identity(office.home("north"), now=NOW) == before
    assert office.renewal("north") == first
    office.now = NOW + 8 * DAY
    assert office.renewal("north") != first


def test_a_wrong_secret_renews_nothing(office: Office):
    """A mistyped passphrase does not seal the next key alone."""
    before = tree(office.home("north"))
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        joining.renew(office.home("north"), secret=key_file(9), now=NOW)
    assert tree(office.home("north")) == before


def test_a_site_that_has_not_joined_cannot_renew(office: Office):
    """The line says what comes first."""
    office.requested("east")
    with pytest.raises(UsageError, match="fedmed site join KIT"):
        joining.renew(office.home("east"), secret=SITE, now=NOW)
    with pytest.raises(UsageError, match="found no kit in it; fedmed site join KIT"):
        read_site_identity(office.home("east"), now=NOW)


def test_a_roster_comes_in_and_only_goes_forward(office: Office):
    """A site takes its roster, the same again, and later editions; none before it, none without it."""
    home = office.home("north")
    joining.take_roster(home, roster_of(office, serial=3), now=NOW)
    before = tree(home)
    joining.take_roster(home, roster_of(office, serial=3), now=NOW)
    assert tree(home) == before
    with pytest.raises(IntegrityError, match="expected serial 3 or later, got 2"):
        joining.take_roster(home, roster_of(office, serial=2), now=NOW)
    with pytest.raises(IntegrityError, match="expected north under its own signing key"):
        joining.take_roster(home, roster_of(office, serial=4, names=("south", "west")), now=NOW)
    assert tree(home) == before
    assert Membership(SiteHome.open(home)).roster(now=NOW).serial == 3


def test_a_roster_in_the_kit_comes_in_with_it(office: Office):
    """A renewal can carry the roster; one with a rebuilt key for this site, or of lower floors, is refused whole."""
    request = office.renewal("north")
    kit = authority.renew(office.opened(), request, now=NOW, roster=roster_of(office)).kit
    office.install("north", kit)
    assert Membership(SiteHome.open(office.home("north"))).roster(now=NOW).names == ("north", "south", "west")


def test_a_roster_below_the_invited_floors_is_refused(office: Office):
    """What the invitation promised is kept: a laxer roster is refused although the consortium signed it."""
    data = office.invitation("east", floors=Floors(n_min=4, max_corrupt=0, max_weight=1000.0))
    office.install("east", office.enrolled(office.accepted("east", data).data))
    with pytest.raises(IntegrityError, match="expected n_min of at least 4, as this site was invited to, got 3"):
        joining.take_roster(office.home("east"), roster_of(office, n_min=3), now=NOW)
    joining.take_roster(office.home("east"), roster_of(office, n_min=4), now=NOW)


def test_a_roster_of_another_consortium_is_refused(office: Office, tmp_path: Path):
    """Another root's roster is not looked at, whoever stands in it."""
    other = Office(tmp_path / "other").founded().joined("north", "south", "west")
    with pytest.raises(IntegrityError, match="expected the signature of the pinned consortium key"):
        joining.take_roster(office.home("north"), roster_of(other), now=NOW)


@pytest.mark.parametrize(
    "name",
    ["tls/current/kit.json", "tls/current/client.pem", "tls/current/client.key", "tls/current/ca.pem",
     "tls/current/coordinator.json", "keys/supernode.key", "keys/supernode.pub", "keys/signing.key",
     "consortium/consortium.key", "consortium/consortium.pub.json"],
)  # fmt: skip
def test_a_file_of_another_site_is_refused(office: Office, tmp_path: Path, name: str):
    """Each file of the identity swapped with that of another site, or of another consortium's, is noticed."""
    other = Office(tmp_path / "other").founded().joined("north")
    mine = office.home("north") / name
    good, mode = mine.read_bytes(), mine.stat().st_mode
    read_site_identity(office.home("north"), now=NOW)
    for source in (office.home("south"), other.home("north")):
        theirs = (source / name).read_bytes()
        if theirs == good:  # the authority and the coordinator are the same for all sites
            continue
        mine.write_bytes(theirs)
        mine.chmod(mode)
        with pytest.raises((IntegrityError, UsageError)):
            read_site_identity(office.home("north"), now=NOW)


def test_an_expired_certificate_is_not_read(office: Office):
    """Two months before the end the identity says when to renew; after the end it is refused with the cure."""
    site = read_site_identity(office.home("north"), now=NOW)
    assert site.renew_from == site.not_after - 30 * DAY
    with pytest.raises(IntegrityError, match="renew it: fedmed site renew"):
        read_site_identity(office.home("north"), now=site.not_after + DAY)
    office.now = site.not_after + DAY
    office.install("north", office.renewed(office.renewal("north")))
    assert read_site_identity(office.home("north"), now=office.now).not_after > office.now


def test_every_step_is_in_the_audit_log(office: Office):
    """Requests, kits and rosters are in the chain with digests and serial numbers, and the chain verifies."""
    home = SiteHome.open(office.home("north"))
    joining.take_roster(home.root, roster_of(office), now=NOW)
    entries = ChainLog(home.audit_path).entries()
    assert [entry.kind for entry in entries] == [joining.REQUESTED, joining.INSTALLED, joining.ROSTER_TAKEN]
    assert entries[1].body["serial"] == read_site_identity(home.root, now=NOW).tls_serial
    assert verify_site(home).problems == ()


def test_new_keys_replace_both_and_keep_the_rest(office: Office):
    """After a loss: another signing key and SuperNode key, the same ledger, pseudonyms and audit log."""
    home = office.home("north")
    before = tree(home)
    authority.revoke(office.opened(), "north", reason="stolen", now=NOW)
    office.install("north", office.enrolled(office.accepted("north", office.invitation("north"), new_keys=True).data))
    after = tree(home)
    for name in ("keys/signing.key", "keys/supernode.key", "keys/supernode.pub"):
        assert after[name] != before[name]
    for name in ("keys/pseudonym.key", "keys/seal.key", "site.json", "consortium/consortium.key"):
        assert after[name] == before[name]
    assert after["audit.jsonl"].startswith(before["audit.jsonl"])
    signing = Ed25519PrivateKey.from_private_bytes(after["keys/signing.key"])
    assert read_register(office.dir).member("north").signing_key == signing.public_key().public_bytes_raw()
    read_site_identity(home, now=NOW)


def test_private_files_are_private(office: Office):
    """Keys have mode 600 in folders of mode 700; only the public line is for everybody."""
    home = office.home("north")
    for name in ("keys/supernode.key", "keys/signing.key", "tls/current/client.key"):
        assert (home / name).stat().st_mode & 0o777 == 0o600
    assert (home / "keys/supernode.pub").stat().st_mode & 0o777 == 0o644
    for folder in (home, home / "keys", home / "tls", home / "tls" / (home / "tls/current").readlink()):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert load_private_key(home / "keys/supernode.key", purpose=SUPERNODE).under == "key-file"


def test_an_invitation_opens_before_anything_is_made(office: Office):
    """Reading an invitation makes no folder."""
    invitation = open_invitation(office.invitation("east"), now=NOW)
    joining.require_acceptable(office.home("east"), invitation, new_keys=False)
    assert not office.home("east").exists()
