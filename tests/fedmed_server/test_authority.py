"""What the consortium decides: once, in order, on its register, and never for what was revoked."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from offices import COORDINATOR, DAY, FLOORS, NOW, ROOT, SITE, Office, key_file, tree

from fedmed.audit import ChainLog
from fedmed.crypto import statements
from fedmed.crypto.certificates import serial_of
from fedmed.crypto.keyfiles import SUPERNODE, TLS_CLIENT, load_private_key
from fedmed.enrolment import REQUEST, SiteRequest, make_request
from fedmed.errors import ConfigError, IntegrityError, RefusedError, UsageError
from fedmed.kits import KIT, Kit, open_invitation, open_kit
from fedmed.members import read_members, read_revoked
from fedmed.secagg.roster import Policy, Roster, RosterEntry, SignedRoster, sign_roster
from fedmed_server import authority, register
from fedmed_server.consortium import files_of, open_consortium
from fedmed_server.coordinator_home import read_coordinator
from fedmed_server.coordinator_making import make_coordinator, renew_coordinator
from fedmed_server.register import read_register
from fedmed_server.roster_drafts import DEFAULT_SEGMENTS
from fedmed_server.rosters import without


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a consortium, its coordinator and three enrolled sites."""
    office = Office(tmp_path_factory.mktemp("founded")).founded().joined("north", "south", "west")
    return office.folder


@pytest.fixture
def office(founded: Path, tmp_path: Path) -> Office:
    """Return a copy of it for one test."""
    shutil.copytree(founded, tmp_path / "office", symlinks=True)
    return Office(tmp_path / "office")


def kit_of(data: bytes) -> Kit:
    """Return what a kit says."""
    return statements.parse(data, KIT, Kit).claim


def test_the_whole_way(office: Office):
    """Invited, enrolled, listed: the coordinator's list has each site's keys and certificate."""
    public = office.opened().public
    members = read_members(files_of(office.dir).members, public)
    assert [one.site for one in members.sites] == ["north", "south", "west"]
    for one in members.sites:
        kit = (office.home(one.site) / "tls/current/kit.json").read_bytes()
        opened = open_kit(kit, public.ed25519(), now=NOW)
        assert members.require_member(one.site, tls_serial=opened.leaf.serial) == one
        assert one.supernode_key == (office.home(one.site) / "keys/supernode.pub").read_text().strip()
    assert read_revoked(files_of(office.dir).revoked, public, least_edition=members.edition).sites == ()


def test_a_request_is_answered_once(office: Office):
    """The same request again is refused, and the line says where its kit lies; nothing changes."""
    request = office.requested("east")
    kit = office.enrolled(request)
    before = tree(office.dir)
    with pytest.raises(RefusedError, match=r"answered already; its kit lies in kits/east-") as caught:
        office.enrolled(request)
    path = str(caught.value).split("lies in ")[1].split(" ")[0]
    assert (office.dir / path).read_bytes() == kit
    assert tree(office.dir) == before


def test_a_code_is_used_once(office: Office):
    """Who has read the invitation and asks with other keys comes second."""
    data = office.invitation("east")
    office.enrolled(office.accepted("east", data).data)
    invitation = open_invitation(data, now=NOW)
    second = make_request(
        site="east",
        consortium_key=invitation.consortium.key,
        signing=Ed25519PrivateKey.generate(),
        supernode=ec.generate_private_key(ec.SECP384R1()),
        tls=ec.generate_private_key(ec.SECP256R1()),
        code=invitation.code,
        now=NOW,
    )
    with pytest.raises(RefusedError, match="its invitation was answered already; if that was not this site, revoke it"):
        office.enrolled(second)


def test_a_request_must_prove_that_it_knows_the_code(office: Office):
    """Another site's name under this code, or the code's public name with a made-up proof, is not enrolled."""
    invitation = open_invitation(office.invitation("east"), now=NOW)
    signing = Ed25519PrivateKey.generate()
    data = make_request(
        site="ost",
        consortium_key=invitation.consortium.key,
        signing=signing,
        supernode=ec.generate_private_key(ec.SECP384R1()),
        tls=ec.generate_private_key(ec.SECP256R1()),
        code=invitation.code,
        now=NOW,
    )
    before = tree(office.dir)
    with pytest.raises(IntegrityError, match="expected a request to join of east, who was invited"):
        office.enrolled(data)
    assert tree(office.dir) == before


def test_an_expired_invitation_is_not_answered(office: Office):
    """A request that comes after the invitation's last day is refused, with the cure."""
    request = office.accepted("east", office.invitation("east", days=3)).data
    office.now = NOW + 3 * DAY + DAY / 24
    with pytest.raises(
        IntegrityError, match=r"the invitation: expected one in force, it expired at .*ask for a new one"
    ):
        office.enrolled(request)


def test_a_request_without_an_invitation_is_refused(office: Office, tmp_path: Path):
    """Another consortium's invitation is unknown here; and its request is not for this consortium."""
    other = Office(tmp_path / "other").founded()
    with pytest.raises(RefusedError, match="found none with its code"):
        office.enrolled(other.requested("east"))


def test_an_enrolled_site_is_not_invited_again(office: Office):
    """Its name is taken until it is revoked."""
    with pytest.raises(RefusedError, match="it renews with fedmed site renew"):
        office.invitation("north")


def test_a_name_that_was_taken_meanwhile_is_refused(office: Office):
    """Two invitations for one name: the first answer wins, the second is refused."""
    first, second = office.requested("east"), None
    office.homes["east"] = office.folder / "east-2"
    second = office.requested("east")
    office.enrolled(first)
    with pytest.raises(RefusedError, match="expected a name that is not enrolled"):
        office.enrolled(second)


def test_keys_belong_to_one_site(office: Office):
    """A site that asks with another site's signing key or SuperNode key is refused."""
    invitation = open_invitation(office.invitation("east"), now=NOW)
    signing = Ed25519PrivateKey.from_private_bytes((office.home("north") / "keys/signing.key").read_bytes())
    request = make_request(
        site="east",
        consortium_key=invitation.consortium.key,
        signing=signing,
        supernode=ec.generate_private_key(ec.SECP384R1()),
        tls=ec.generate_private_key(ec.SECP256R1()),
        code=invitation.code,
        now=NOW,
    )
    with pytest.raises(RefusedError, match="north has or had one of them"):
        office.enrolled(request)


def test_a_renewal_has_a_new_key_and_the_same_site(office: Office):
    """The certificate is new, the keys of the site are the same, and both certificates are on the list."""
    before = kit_of((office.home("north") / "tls/current/kit.json").read_bytes())
    office.now = NOW + 60 * DAY
    kit = kit_of(office.renewed(office.renewal("north")))
    assert kit.kind == "renew"
    assert (kit.signing_key, kit.supernode_key) == (before.signing_key, before.supernode_key)
    serials = {serial_of(one.certificate.encode()) for one in (before, kit)}
    assert len(serials) == 2
    (north, *_) = read_members(files_of(office.dir).members, office.opened().public).sites
    assert {one.serial for one in north.certificates} == serials
    office.now = NOW + 91 * DAY
    authority.publish(office.opened(), now=office.now)
    (north, *_) = read_members(files_of(office.dir).members, office.opened().public).sites
    assert [one.serial for one in north.certificates] == [serial_of(kit.certificate.encode())]


def test_a_renewal_is_answered_once_and_not_when_it_is_old(office: Office):
    """A replayed renewal is refused, today and next month."""
    request = office.renewal("north")
    office.renewed(request)
    with pytest.raises(RefusedError, match="answered already"):
        office.renewed(request)
    office.now = NOW + 31 * DAY
    with pytest.raises(IntegrityError, match="the request of north: expected one in force"):
        office.renewed(request)


def test_a_certified_tls_key_is_not_certified_again(office: Office):
    """A new request for an old TLS key, which may have been copied meanwhile, is refused."""
    data = office.renewal("north")
    sealed = office.home("north") / "keys/tls.next.key"
    tls = load_private_key(sealed, purpose=TLS_CLIENT).unseal_ecdsa(SITE)
    supernode = load_private_key(office.home("north") / "keys/supernode.key", purpose=SUPERNODE).unseal_ecdsa(SITE)
    signing = Ed25519PrivateKey.from_private_bytes((office.home("north") / "keys/signing.key").read_bytes())
    office.renewed(data)
    again = make_request(
        site="north",
        consortium_key=office.opened().public.key,
        signing=signing,
        supernode=supernode,
        tls=tls,
        code=None,
        now=NOW + DAY / 24,
    )
    office.now = NOW + DAY / 24
    with pytest.raises(RefusedError, match="expected a new TLS key, got one that was certified before"):
        office.renewed(again)


def test_a_renewal_with_other_keys_is_refused(office: Office):
    """Only the enrolled signing key renews; so does not another member under this name."""
    request = make_request(
        site="north",
        consortium_key=office.opened().public.key,
        signing=Ed25519PrivateKey.from_private_bytes((office.home("south") / "keys/signing.key").read_bytes()),
        supernode=ec.generate_private_key(ec.SECP384R1()),
        tls=ec.generate_private_key(ec.SECP256R1()),
        code=None,
        now=NOW,
    )
    with pytest.raises(IntegrityError, match="signed with the keys that the site was enrolled with"):
        office.renewed(request)


def test_joining_and_renewing_are_not_confused(office: Office):
    """Each command says which other one the request is for."""
    with pytest.raises(UsageError, match="fedmed consortium renew"):
        office.enrolled(office.renewal("north"))
    with pytest.raises(UsageError, match="fedmed consortium enrol"):
        office.renewed(office.requested("east"))


def test_a_renewal_for_another_consortium_is_refused(office: Office, tmp_path: Path):
    """A member of two consortia cannot renew here what belongs there."""
    other = Office(tmp_path / "other").founded().joined("north")
    with pytest.raises(IntegrityError, match="expected one for this consortium, got another's"):
        office.renewed(other.renewal("north"))


def test_a_revoked_site_is_listed_and_does_not_renew(office: Office):
    """All it held stands on the list; its renewal is refused; its name may be invited again, its keys not."""
    office.install("north", office.renewed(office.renewal("north")))
    gone = authority.revoke(office.opened(), "north", reason="laptop stolen", now=NOW)
    public = office.opened().public
    revoked = read_revoked(files_of(office.dir).revoked, public, least_edition=gone.edition)
    (one,) = revoked.sites
    assert one.site == "north"
    assert len(one.tls_serials) == 2
    for serial in one.tls_serials:
        with pytest.raises(RefusedError, match="revoked at 2030-01-01"):
            revoked.require_good(tls_serial=serial)
    assert "north" not in [member.site for member in read_members(files_of(office.dir).members, public).sites]
    with pytest.raises(RefusedError, match=r"it was revoked at .*invite it anew"):
        office.renewed(office.renewal("north"))
    with pytest.raises(RefusedError, match="expected an enrolled site, but it was revoked"):
        authority.revoke(office.opened(), "north", reason="again", now=NOW)


def test_a_revoked_site_comes_back_with_new_keys_only(office: Office):
    """After a new invitation the old keys are refused and new ones are taken; the old ones stay on the list."""
    authority.revoke(office.opened(), "north", reason="laptop stolen", now=NOW)
    data = office.invitation("north")
    shutil.rmtree(office.home("north") / "tls")  # a home restored without its certificate, to ask with the old keys
    with pytest.raises(RefusedError, match=r"north has or had one of them.*--new-keys"):
        office.enrolled(office.accepted("north", data).data)
    office.install("north", office.enrolled(office.accepted("north", data, new_keys=True).data))
    members = read_register(office.dir)
    assert [one.site for one in members.members] == ["north", "south", "west"]
    assert members.revoked[0].signing_key != members.members[0].signing_key


def test_a_reason_is_one_line(office: Office):
    """The register takes no empty and no broken reason."""
    for reason in ("", "a\nb", "\x1b[31m"):
        with pytest.raises(UsageError, match="expected a reason in one line"):
            authority.revoke(office.opened(), "north", reason=reason, now=NOW)


@pytest.mark.parametrize("days", [0, 91, -1])
def test_an_invitation_has_an_end(office: Office, days: int):
    """No invitation is for ever."""
    with pytest.raises(UsageError, match="expected 1 to 90 days"):
        office.invitation("east", days=days)


def test_what_fails_leaves_no_kit_behind(office: Office, monkeypatch: pytest.MonkeyPatch):
    """When the register cannot be written, the kit is not there either, and the request can be answered later."""
    request = office.requested("east")
    before = tree(office.dir)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ChainLog, "extend", full)
        with pytest.raises(OSError, match="No space left"):
            office.enrolled(request)
    assert tree(office.dir) == before
    office.install("east", office.enrolled(request))


def test_a_kit_goes_with_the_last_statement(office: Office):
    """When the coordinator has moved, a renewed site learns its new address from the kit."""
    made = renew_coordinator(
        office.opened(), office.coordinator, hosts=("new.example.org",), port=None, secret=COORDINATOR, now=NOW
    )
    assert made.statement.serial == 2
    opened = office.install("north", office.renewed(office.renewal("north")))
    assert opened.coordinator.hosts == ("new.example.org",)


def test_a_register_that_was_changed_decides_nothing(office: Office):
    """One letter in an old line stops every decision."""
    path = files_of(office.dir).register
    path.write_text(path.read_text().replace('"site":"south"', '"site":"sooth"', 1))
    for act in (
        lambda: office.invitation("east"),
        lambda: office.renewed(office.renewal("north")),
        lambda: authority.revoke(office.opened(), "north", reason="x", now=NOW),
    ):
        with pytest.raises(IntegrityError, match="audit chain"):
            act()


def test_a_register_with_a_field_missing_is_refused(office: Office):
    """An entry that verifies but says too little is refused with its number."""
    ChainLog(files_of(office.dir).register).append(register.ENROLLED, {"site": "east"})
    with pytest.raises(IntegrityError, match="of kind enrolled: expected its fields"):
        read_register(office.dir)


def roster(office: Office, *names: str) -> SignedRoster:
    """Return the roster of these members."""
    members = read_register(office.dir)
    sites = tuple(RosterEntry(site=name, signing_key=members.member(name).signing_key) for name in sorted(names))
    policy = Policy(n_min=3, max_corrupt=0, max_weight=FLOORS.max_weight, segments=DEFAULT_SEGMENTS)
    return sign_roster(Roster(serial=4, sites=sites, policy=policy), office.opened().root)


def test_the_next_roster_is_without_the_revoked_site(office: Office):
    """One serial more, the same floors, one site less; with too few sites left none is signed."""
    office.joined("east")
    before = roster(office, "north", "south", "west", "east")
    after = without(before, "south", office.opened().root, now=NOW)
    assert after.roster == replace(before.roster, serial=5, sites=after.roster.sites)
    assert after.roster.names == ("east", "north", "west")
    with pytest.raises(ConfigError, match="expected at least n_min = 3 sites after east is gone, got 2"):
        without(after, "east", office.opened().root, now=NOW)


def test_the_coordinators_folder_is_verified_when_it_is_read(office: Office, tmp_path: Path):
    """Statement, certificate, key, authority and plan key must belong together, and be in force."""
    made = read_coordinator(office.coordinator, now=NOW)
    assert (made.name, made.hosts, made.port) == ("hub", ("hub.example.org", "10.0.0.7"), 8443)
    assert made.plan_key(COORDINATOR).public_key().public_bytes_raw() == made.statement.plan_key
    assert made.members().edition <= read_register(office.dir).edition
    assert made.revoked().sites == ()
    with made.unsealed_server_key(COORDINATOR, folder=tmp_path) as path:
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert made.server_context(COORDINATOR).verify_mode
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        made.plan_key(key_file(9))
    with pytest.raises(IntegrityError, match="certificate of the coordinator: expected one in force"):
        read_coordinator(office.coordinator, now=NOW + 91 * DAY)


@pytest.mark.parametrize("name", ["coordinator.json", "server.pem", "server.key", "ca.pem", "signing.key"])
def test_a_file_of_another_coordinator_is_refused(office: Office, tmp_path: Path, name: str):
    """Each file swapped with that of another coordinator, of the same or another consortium, is noticed."""
    arguments = {
        "name": "hub",
        "hosts": ("hub.example.org", "10.0.0.7"),
        "port": 8443,
        "secret": COORDINATOR,
        "now": NOW,
    }
    make_coordinator(office.opened(), tmp_path / "second", **arguments)  # type: ignore[arg-type]
    other = Office(tmp_path / "other").founded()
    mine = office.coordinator / name
    good = mine.read_bytes()
    for source in (tmp_path / "second", other.coordinator):
        theirs = (source / name).read_bytes()
        if theirs == good:
            continue
        mine.write_bytes(theirs)
        if name == "coordinator.json" and source == tmp_path / "second":
            with pytest.raises(IntegrityError, match="expected the key that the statement names"):
                read_coordinator(office.coordinator, now=NOW)
        else:
            with pytest.raises(IntegrityError):
                read_coordinator(office.coordinator, now=NOW)
    mine.unlink()
    with pytest.raises(UsageError, match="expected a coordinator's file, found none"):
        read_coordinator(office.coordinator, now=NOW)


def test_a_coordinator_is_renewed_whole(office: Office):
    """A new certificate with a new key; plan key, name and port stay; a wrong secret changes nothing."""
    before, files = read_coordinator(office.coordinator, now=NOW), tree(office.coordinator)
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        renew_coordinator(office.opened(), office.coordinator, hosts=(), port=None, secret=ROOT, now=NOW)
    assert tree(office.coordinator) == files
    later = NOW + 80 * DAY
    office.now = later
    after = renew_coordinator(office.opened(), office.coordinator, hosts=(), port=None, secret=COORDINATOR, now=later)
    assert after.not_after - before.not_after == 80 * DAY
    assert (after.statement.plan_key, after.hosts, after.port) == (before.statement.plan_key, before.hosts, before.port)
    assert after.statement.serial == before.statement.serial + 1
    assert after.server_context(COORDINATOR).verify_mode


def test_a_coordinator_is_never_overwritten(office: Office):
    """Making one where one is changes nothing."""
    files = tree(office.coordinator)
    with pytest.raises(UsageError, match="nothing was overwritten"):
        make_coordinator(
            office.opened(), office.coordinator, name="x", hosts=("a.example",), port=1, secret=COORDINATOR, now=NOW
        )
    assert tree(office.coordinator) == files


def test_another_consortium_does_not_renew_a_coordinator(office: Office, tmp_path: Path):
    """A mixed-up --dir is one line."""
    other = Office(tmp_path / "other").founded()
    with pytest.raises(IntegrityError, match="expected a coordinator of this consortium"):
        renew_coordinator(other.opened(), office.coordinator, hosts=(), port=None, secret=COORDINATOR, now=NOW)


def test_a_wrong_secret_opens_no_consortium(office: Office):
    """Nothing is decided without the consortium's own secret."""
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        open_consortium(office.dir, COORDINATOR, now=NOW)


def test_a_request_is_of_its_form(office: Office):
    """An invitation, a kit or rubbish in place of a request is one line."""
    assert statements.parse(office.requested("east"), REQUEST, SiteRequest).claim.site == "east"
    for data in (office.invitation("ost"), (office.home("north") / "tls/current/kit.json").read_bytes(), b"rubbish"):
        with pytest.raises(IntegrityError, match="expected a fedmed-site-request file, got"):
            office.enrolled(data)
