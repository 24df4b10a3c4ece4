"""`fedmed consortium` as a person uses it: each step, and the one line for each mistake."""

import base64
import json
import os
import pty
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed import cli
from fedmed.crypto.keyfiles import public_of, save_public_key
from fedmed.crypto.passphrases import VARIABLE

PASSPHRASE = "correct horse battery staple"
DRAFT = """\
serial: {serial}
valid_until: 2099-12-31
sites:
  - {{name: west, key: keys/west.pub.json}}
  - {{name: north, key: keys/north.pub.json}}
  - {{name: south, key: keys/south.pub.json}}
policy:
  n_min: 3
  max_weight: 100000
"""
NAMES = ("north", "south", "west")


def site_key(number: int) -> Ed25519PrivateKey:
    """Return a site's signing key."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def base64_of(number: int) -> str:
    """Return a site's public key as base64."""
    return base64.b64encode(site_key(number).public_key().public_bytes_raw()).decode()


class Office:
    """A folder with passphrase, consortium key, the sites' public keys and a draft; runs commands in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.draft = folder / "draft.yaml"

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run `fedmed consortium WORDS`; return the exit code, standard output and standard error."""
        code = cli.main(["consortium", *words])
        out, err = self.capsys.readouterr()
        return code, out, err

    def sign(self, *more: str, out: str = "roster.json", protected_by: str = "pass") -> tuple[int, str, str]:
        """Sign the draft."""
        words = ("--key", "root/consortium.key", "--out", out, "--passphrase-file", protected_by)
        return self.run("roster", "sign", "draft.yaml", *words, *more)

    def change(self, old: str, new: str) -> None:
        """Change the draft."""
        text = self.draft.read_text()
        assert old in text
        self.draft.write_text(text.replace(old, new))

    def refused(self, code: int, out: str, err: str) -> str:
        """Assert that a command ended with one line and exit code 2; return the line."""
        assert code == 2
        assert out == ""
        assert err.startswith("fedmed: ")
        assert err.count("\n") == 1
        assert PASSPHRASE not in err
        return err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a consortium key was made; scrypt takes its time, so once."""
    folder = tmp_path_factory.mktemp("made")
    for name, text in (("pass", PASSPHRASE), ("wrong", "another passphrase")):
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(0o600)
    from fedmed_server.cli import consortium  # noqa: PLC0415  the function that the entry point names

    assert consortium(["init", "--out", str(folder / "root"), "--passphrase-file", str(folder / "pass")]) == 0
    (folder / "keys").mkdir()
    for number, name in enumerate(NAMES, start=1):
        public = public_of(site_key(number), name=name, purpose="site-signing")
        save_public_key(folder / "keys" / f"{name}.pub.json", public)
    (folder / "draft.yaml").write_text(DRAFT.format(serial=1))
    return folder


@pytest.fixture
def office(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Office:
    """Return a fresh copy of the folder, with the command found through its entry point."""
    entry = EntryPoint("consortium", "fedmed_server.cli:consortium", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "office"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    return Office(folder, capsys)


def test_init_shows_the_fingerprint_that_the_public_file_has(office: Office):
    """What a person reads out after `init` is what `fingerprint` shows at a site."""
    _, out, _ = office.run("init", "--out", "second", "--name", "ward-net", "--passphrase-file", "pass")
    blocks = [line.split("fingerprint")[-1].split() for line in out.splitlines()[2:4]]
    _, shown, _ = office.run("fingerprint", "second/consortium.pub.json")
    assert shown.startswith("consortium key of ward-net (ed25519)\n")
    assert shown.split("fingerprint")[1].split() == blocks[0] + blocks[1]
    assert len(blocks[0] + blocks[1]) == 16


def test_init_never_replaces_a_key(office: Office):
    """A second `init` in the same folder is refused before a passphrase is asked for."""
    before = (office.folder / "root/consortium.key").read_bytes()
    line = office.refused(*office.run("init", "--out", "root"))
    assert "nothing was overwritten" in line
    assert (office.folder / "root/consortium.key").read_bytes() == before


def test_a_short_passphrase_makes_no_key(office: Office):
    """A new key under a passphrase of a few letters is refused, and leaves no folder."""
    (office.folder / "pass").write_text("short")
    line = office.refused(*office.run("init", "--out", "new", "--passphrase-file", "pass"))
    assert "at least 12 characters" in line
    assert not (office.folder / "new").exists()


def test_sign_show_and_verify(office: Office):
    """A draft becomes a roster with its sites in order; it shows, verifies, and names the figures that matter."""
    code, out, _ = office.sign()
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith(NAMES)] == ["north", "south", "west"]
    assert "with all 3 sites" in out
    assert "sites needed; no loss tolerated" in out
    assert "sites needed; 1 loss tolerated" in out
    assert "2^-22" in out
    assert "in 16 bits instead (half the bytes):" in out
    assert all(len(line) <= 120 for line in out.splitlines())
    code, shown, _ = office.run("roster", "show", "roster.json", "--key", "root/consortium.pub.json")
    assert code == 0
    assert shown.startswith(out.split("\n\nSigned by")[0])
    assert "Signature good, by the key of consortium" in shown
    good = "good: roster.json: serial 1, 3 sites, in force until 2099-12-31T23:59:59Z\n"
    assert office.run("roster", "verify", "roster.json", "--key", "root/consortium.pub.json") == (0, good, "")


def test_show_without_a_key_says_that_nothing_was_checked(office: Office):
    """An unverified roster is never shown as a good one."""
    office.sign()
    _, out, _ = office.run("roster", "show", "roster.json")
    assert "Signature NOT checked" in out
    assert "good" not in out


def test_show_as_json_holds_the_same_facts(office: Office):
    """A program reads sites, thresholds and errors; `signed_by` is null when no key was given."""
    office.sign()
    facts: dict[str, Any] = json.loads(office.run("roster", "show", "roster.json", "--json")[1])
    assert facts["signed_by"] is None
    assert [site["name"] for site in facts["sites"]] == ["north", "south", "west"]
    assert (facts["threshold"], facts["gate"]) == (2, 3)
    assert facts["segments"][0]["error_maximum"] == pytest.approx(2.0**-22)
    keyed = json.loads(office.run("roster", "show", "roster.json", "--json", "--key", "root/consortium.pub.json")[1])
    assert keyed == {**facts, "signed_by": keyed["signed_by"]}
    assert len(keyed["signed_by"].split()) == 16


def test_a_roster_for_half_the_bytes(office: Office):
    """`bits: 16` takes the finest steps that leave headroom for all sites, and its error is in the table."""
    office.change("  max_weight: 100000", "  max_weight: 100000\n  segments: [{name: delta, bits: 16}, {name: aux}]")
    _, out, _ = office.sign()
    (line,) = [line for line in out.splitlines() if line.startswith("delta")]
    assert line.split()[:5] == ["delta", "16", "signed", "+-4", "2^-11"]
    assert line.split()[-1] == "4.9e-04"
    assert "fisher" not in out


def test_keys_may_stand_in_the_draft(office: Office):
    """Base64 and hexadecimal give the same roster as the key files."""
    _, first, _ = office.sign()
    office.change("keys/north.pub.json", base64_of(1))
    office.change("keys/south.pub.json", f"'{site_key(2).public_key().public_bytes_raw().hex()}'")
    _, second, _ = office.sign(out="other.json")
    assert second.replace("other.json", "roster.json") == first
    assert (office.folder / "other.json").read_bytes() == (office.folder / "roster.json").read_bytes()


def test_a_next_edition_shows_what_changes(office: Office):
    """With --previous the serial must grow, the old file may be replaced, and the differences are listed."""
    office.sign()
    office.draft.write_text(DRAFT.format(serial=2).replace("max_weight: 100000", "max_weight: 5"))
    office.change("  - {name: west, key: keys/west.pub.json}\n", f"  - {{name: east, key: {base64_of(9)}}}\n")
    office.change("keys/south.pub.json", base64_of(8))
    code, out, _ = office.sign("--previous", "roster.json")
    assert code == 0
    assert "Changed since serial 1:\n  added: east\n  removed: west\n  new key: south\n" in out
    assert "  max_weight: 100000.0 becomes 5.0\n" in out
    verified = office.run("roster", "verify", "roster.json", "--key", "root/consortium.pub.json", "--least-serial", "2")
    assert verified[0] == 0


def test_a_serial_that_does_not_grow_is_refused(office: Office):
    """The previous edition's serial again is refused, with the one to write."""
    office.sign()
    line = office.refused(*office.sign("--previous", "roster.json", out="next.json"))
    assert "serial: expected more than the previous roster's 1, got 1; write serial: 2" in line
    assert not (office.folder / "next.json").exists()


def test_a_previous_roster_of_another_consortium_is_refused(office: Office):
    """What the key did not sign is no edition before."""
    office.sign()
    office.run("init", "--out", "second", "--passphrase-file", "pass")
    office.draft.write_text(DRAFT.format(serial=2))
    words = ("--key", "second/consortium.key", "--out", "n.json", "--passphrase-file", "pass")
    line = office.refused(*office.run("roster", "sign", "draft.yaml", *words, "--previous", "roster.json"))
    assert "expected the signature of the pinned consortium key" in line


def test_a_roster_is_not_overwritten_by_accident(office: Office):
    """An existing --out is only replaced where it was named as the previous edition."""
    office.sign()
    before = (office.folder / "roster.json").read_bytes()
    assert "name it as --previous too" in office.refused(*office.sign())
    assert (office.folder / "roster.json").read_bytes() == before


def test_an_old_edition_does_not_verify(office: Office):
    """--least-serial refuses what came before it."""
    office.sign()
    words = ("roster", "verify", "roster.json", "--key", "root/consortium.pub.json", "--least-serial", "2")
    assert "expected serial 2 or later, got 1" in office.refused(*office.run(*words))


def test_a_changed_roster_does_not_verify(office: Office):
    """One figure changed in the file breaks the signature, for `verify` and for `show` with a key."""
    office.sign()
    path = office.folder / "roster.json"
    path.write_text(path.read_text().replace('"max_weight":100000.0', '"max_weight":900000.0'))
    for command in ("verify", "show"):
        line = office.refused(*office.run("roster", command, "roster.json", "--key", "root/consortium.pub.json"))
        assert "the roster was changed, or it belongs to another consortium" in line


def test_another_consortiums_key_does_not_verify(office: Office):
    """A good roster under the wrong key says which two things to compare."""
    office.sign()
    office.run("init", "--out", "second", "--passphrase-file", "pass")
    line = office.refused(*office.run("roster", "verify", "roster.json", "--key", "second/consortium.pub.json"))
    assert "compare the key's fingerprint" in line


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("name: west", "name: 'west ward'", "a name must be 1 to 64 letters, digits, dots, dashes or underscores"),
        ("name: west, key: keys/west.pub.json", f"name: 西院, key: {base64_of(7)}", "got '西院'"),
        ("name: west, key: keys/west.pub.json", f"name: north, key: {base64_of(7)}", "got north twice"),
        ("keys/west.pub.json", base64_of(1), "got the same for north and west; each site makes its own"),
        ("name: west", "name: east", "expected the key file of 'east' in keys/west.pub.json, got that of west"),
        ("keys/west.pub.json", "keys/none.pub.json", "found no file keys/none.pub.json"),
        ("keys/west.pub.json", "root/consortium.pub.json", "expected a site-signing key, got the consortium key"),
        ("n_min: 3", "n_min: 2", "n_min must be at least max(3, max_corrupt + 2) = 3, got 2"),
        ("n_min: 3", "n_min: 4", "expected at least n_min = 4, got 3; add sites"),
        ("n_min: 3", "n_min: three", "policy.n_min: expected int, got 'three'"),
        ("n_min: 3", "n_least: 3", "policy.n_least: unknown key; expected one of: max_corrupt, max_weight"),
        ("  n_min: 3\n", "", "n_min"),
        ("max_weight: 100000", "max_weight: 0", "max_weight must be above 0, got 0"),
        ("serial: 1", "serial: 0", "serial must be at least 1, got 0"),
        ("2099-12-31", "2001-12-31", "valid_until: expected a time to come, got 2001-12-31T23:59:59Z"),
        ("2099-12-31", "tomorrow", "valid_until: expected a day like 2030-01-31 or a moment, got 'tomorrow'"),
        ("2099-12-31", "2099-12-31T10:00:00", "expected a moment with its time zone, such as 2099-12-31T10:00:00Z"),
        ("2099-12-31", "0001-01-01T00:00:00+14:00", "valid_until: expected a day like 2030-01-31 or a moment"),
        ("valid_until", "valid_from: 2099-12-31\nvalid_until: 2098-12-31\n#", "valid_until must be after valid_from"),
        ("max_weight", "segments: [{name: extra, bits: 32}]\n  max_weight", "'extra' has no defaults; give also kind"),
        ("max_weight", "segments: [{name: delta, bits: 24}]\n  max_weight", "bits"),
        ("max_weight", "segments: [{name: delta, clip: -1}]\n  max_weight", "segment delta: clip must be above 0"),
        ("max_weight", "segments: [{name: delta, clip: 1.0e+9}]\n  max_weight", "segment delta: no headroom for 3"),
        ("policy:", "policy: [", "expected YAML in UTF-8"),
        ("serial: 1", "serial: 1\nserial: 2", "found duplicate key serial"),
    ],
)
def test_a_mistake_in_the_draft_is_one_line(office: Office, old: str, new: str, text: str):
    """Each mistake names the field and what it takes; no passphrase is asked for and nothing is written."""
    office.change(old, new)
    line = office.refused(*office.sign(protected_by="there-is-no-such-file"))
    assert text in line
    assert not (office.folder / "roster.json").exists()


def test_the_consortiums_own_key_is_no_sites(office: Office):
    """A site that signs with the consortium's key is refused."""
    key = json.loads((office.folder / "root/consortium.pub.json").read_text())["public"]["key"]
    office.change("keys/west.pub.json", key)
    assert "expected west's own signing key, got the consortium's" in office.refused(*office.sign())


def test_the_wrong_passphrase_signs_nothing(office: Office):
    """A wrong passphrase is one line, repeats neither, and leaves no roster."""
    line = office.refused(*office.sign(protected_by="wrong"))
    assert "expected the passphrase that it was sealed under, got another" in line
    assert "another passphrase" not in line
    assert not (office.folder / "roster.json").exists()


def test_the_passphrase_file_may_be_named_in_the_environment(office: Office, monkeypatch: pytest.MonkeyPatch):
    """The variable names a file, so that a service or script needs no option."""
    monkeypatch.setenv(VARIABLE, "pass")
    words = ("roster", "sign", "draft.yaml", "--key", "root/consortium.key", "--out", "roster.json")
    assert office.run(*words)[0] == 0


def test_without_a_passphrase_the_ways_to_give_one_are_named(office: Office, monkeypatch: pytest.MonkeyPatch):
    """No file and no terminal: one line, and no waiting."""
    monkeypatch.setattr("sys.stdin", None)
    words = ("roster", "sign", "draft.yaml", "--key", "root/consortium.key", "--out", "roster.json")
    assert "give --passphrase-file FILE" in office.refused(*office.run(*words))


def test_the_passphrase_is_asked_for_at_a_terminal_without_echo(office: Office):
    """At a real terminal the prompt appears, what is typed does not, and the roster is signed."""
    main_end, terminal = pty.openpty()
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from fedmed_server.cli import consortium; sys.exit(consortium(sys.argv[1:]))"
    )
    words = ["roster", "sign", "draft.yaml", "--key", "root/consortium.key", "--out", "roster.json"]
    child = subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-c", program, *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = read_until(main_end, b"Passphrase: ")
    os.write(main_end, PASSPHRASE.encode() + b"\n")
    seen += read_until(main_end, b"Signed by consortium")
    read_until(main_end, b"")
    os.close(main_end)
    assert child.wait(timeout=60) == 0
    assert PASSPHRASE.encode() not in seen
    assert (office.folder / "roster.json").exists()


def read_until(descriptor: int, mark: bytes) -> bytes:
    """Return what a terminal shows up to `mark`, or to its end if the mark is empty."""
    seen = b""
    while not mark or mark not in seen:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            break
        seen += part
    assert mark in seen, seen
    return seen


def test_a_key_that_others_can_read_signs_nothing(office: Office):
    """The line has the command that closes the file."""
    (office.folder / "root/consortium.key").chmod(0o644)
    assert "run: chmod 600 root/consortium.key" in office.refused(*office.sign())


def test_the_public_key_does_not_sign(office: Office):
    """The two halves mixed up: one line that says which file was expected."""
    (office.folder / "root/consortium.pub.json").chmod(0o600)
    words = ("--key", "root/consortium.pub.json", "--out", "roster.json", "--passphrase-file", "pass")
    line = office.refused(*office.run("roster", "sign", "draft.yaml", *words))
    assert "expected a private key file of FedMed, got another file" in line


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("roster", "show", "none.json"), "none.json: expected a signed roster, found no such file"),
        (("roster", "show", "draft.yaml"), "expected a file that `fedmed consortium roster sign` wrote, got another"),
        (("roster", "verify", "draft.yaml", "--key", "none.json"), "none.json: expected a public key file, found no"),
        (("roster", "verify", "draft.yaml", "--key", "keys/north.pub.json"), "got the site-signing key of north"),
        (("roster", "verify", "draft.yaml"), "the following arguments are required: --key"),
        (("roster", "sign", "draft.yaml", "--out", "o"), "expected the consortium's private key; give --key, or"),
        (("roster", "sign", "none.yaml", "--key", "k", "--out", "o"), "none.yaml: expected a draft of a roster, found"),
        (("roster", "remove"), "invalid choice: 'remove'"),
        (("roster", "revoke", "north", "--dir", "root"), "the following arguments are required: --reason"),
        (("init", "--out", "draft.yaml"), "draft.yaml: expected a folder, found a file"),
        (("init", "--out", "x", "--passphrase", "secret"), "unrecognized arguments"),
        (("fingerprint", "none.json"), "none.json: expected a public key file, found no such file"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(office: Office, words: tuple[str, ...], text: str):
    """No traceback and no usage dump: exit code 2 and one line."""
    assert text in office.refused(*office.run(*words))


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("--help",), ("Its root key says who takes part", "fedmed consortium init --out DIR", "keep them offline")),
        (("init", "--help"), ("mode 600", VARIABLE)),
        (("roster", "sign", "--help"), ("DRAFT is YAML", "fewest sites that any sum may cover", "bits: 16")),
        (("roster", "show", "--help"), ("checks the signature",)),
        (("roster", "verify", "--help"), ("exit code 0 or 2", "refuse editions before this one")),
    ],
)
def test_help_explains_itself(office: Office, words: tuple[str, ...], texts: tuple[str, ...]):
    """Each --help says in plain words what is made, from what, and where."""
    with pytest.raises(SystemExit) as ended:
        office.run(*words)
    out = office.capsys.readouterr().out
    assert ended.value.code == 0
    for text in texts:
        assert text in out


def test_the_draft_in_the_help_can_be_signed(office: Office, capsys: pytest.CaptureFixture[str]):
    """The example that --help shows is a valid draft."""
    with pytest.raises(SystemExit):
        office.run("roster", "sign", "--help")
    text = capsys.readouterr().out.split("DRAFT is YAML:\n")[1]
    office.draft.write_text(text)
    assert office.sign()[0] == 0


def test_the_how_to_can_be_followed(office: Office):
    """The draft and the commands of sign-a-roster.md do what the page says."""
    page = (Path(__file__).parents[2] / "docs/how-to/sign-a-roster.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```bash\n")[1:]]
    office.draft.write_text(page.split("```yaml\n")[1].split("```")[0])
    shutil.rmtree(office.folder / "root")
    commands = [line.split()[2:] for block in blocks for line in block.splitlines()]
    assert [words[:2] for words in commands[2:]] == [["roster", verb] for verb in ("sign", "verify", "show", "sign")]
    for words in commands:
        if "--previous" in words:
            office.change("serial: 1", "serial: 2")
        secret = ["--passphrase-file", "pass"] if words[0] == "init" or "sign" in words else []
        assert office.run(*words, *secret)[0] == 0, words
        if words[0] == "init":  # as it arrives at a site
            shutil.copy("root/consortium.pub.json", "consortium.pub.json")


def test_a_draft_in_another_encoding_is_one_line(office: Office):
    """A draft that was saved as GB18030 asks for UTF-8."""
    office.draft.write_bytes("# 名单\nserial: 1\n".encode("gb18030"))
    assert "expected YAML in UTF-8" in office.refused(*office.sign())
