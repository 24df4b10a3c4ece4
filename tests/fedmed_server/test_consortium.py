"""The consortium's key: made once, whole or not at all, and what a roster's figures say."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedmed.crypto.keyfiles import CONSORTIUM, load_private_key, load_public_key
from fedmed.crypto.passphrases import Secret
from fedmed.errors import IntegrityError, UsageError
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment
from fedmed_server.consortium import files_of, make_consortium, open_consortium
from fedmed_server.roster_drafts import DEFAULT_SEGMENTS
from fedmed_server.rosters import describe, finest_fraction_bits, most_sites

SECRET = Secret(kind="key-file", value=bytes(range(32)))
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def roster(size: int, *, max_corrupt: int = 0, segments: tuple[Segment, ...] = DEFAULT_SEGMENTS) -> Roster:
    """Return a roster of `size` sites."""
    sites = tuple(RosterEntry(site=f"s{n:05}", signing_key=n.to_bytes(32, "big")) for n in range(size))
    policy = Policy(n_min=max(3, max_corrupt + 2), max_corrupt=max_corrupt, segments=segments, max_weight=10.0)
    return Roster(serial=1, sites=sites, policy=policy)


def test_a_key_is_made_with_both_halves(tmp_path: Path):
    """The folder is private, the private half unseals, and the public half is its own."""
    public = make_consortium(tmp_path / "keys", name="consortium", secret=SECRET, now=NOW)
    files = files_of(tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert load_public_key(files.public, purpose=CONSORTIUM) == public
    key = load_private_key(files.private, purpose=CONSORTIUM).unseal_ed25519(SECRET)
    public.ed25519().verify(key.sign(b"roster"), b"roster")


@pytest.mark.parametrize("there", ["consortium.key", "consortium.pub.json", "authority.key", "register.jsonl"])
def test_a_key_is_never_replaced(tmp_path: Path, there: str):
    """Either half in the folder stops the making of another pair, and stays."""
    (tmp_path / there).write_text("precious")
    with pytest.raises(UsageError, match="nothing was overwritten"):
        make_consortium(tmp_path, name="consortium", secret=SECRET, now=NOW)
    assert (tmp_path / there).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("step", ["save_public_key", "write_atomic", "ChainLog"])
def test_half_a_consortium_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    """When one of its files cannot be written, the others go too."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"fedmed_server.consortium.{step}", full)
    with pytest.raises(OSError, match="No space left"):
        make_consortium(tmp_path, name="consortium", secret=SECRET, now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "corrupt", "threshold", "before", "after"),
    [(3, 0, 2, 0, 1), (5, 0, 3, 2, 2), (10, 2, 7, 3, 3), (30, 9, 20, 10, 10), (100, 33, 67, 33, 33)],
)
def test_the_losses_tolerated_are_those_of_the_design(size: int, corrupt: int, threshold: int, before: int, after: int):
    """Thresholds and losses for the full cohort are the documented table's."""
    facts = describe(roster(size, max_corrupt=corrupt))
    assert (facts.threshold, facts.losses_before_upload, facts.losses_after_upload) == (threshold, before, after)


def test_the_headroom_shown_is_the_protocols():
    """One more site than the largest cohort shown has no headroom, for rings of every width."""
    half = Segment(name="half", bits=16, kind="signed", clip=0.5, fraction_bits=9, max_length=8)
    for segment in (*DEFAULT_SEGMENTS, half):
        most = most_sites(segment)
        assert segment.has_headroom(most)
        assert not segment.has_headroom(most + 1)
    assert most_sites(DEFAULT_SEGMENTS[0]) == 127


@pytest.mark.parametrize("sites", [3, 5, 10, 100])
@pytest.mark.parametrize("clip", [0.5, 1.0, 4.0])
def test_the_finest_steps_just_fit(sites: int, clip: float):
    """The steps chosen for 16 bits have headroom for all sites, and half the step would not."""
    bits = finest_fraction_bits(bits=16, clip=clip, sites=sites)
    fits = Segment(name="x", bits=16, kind="signed", clip=clip, fraction_bits=bits, max_length=1)
    assert fits.has_headroom(sites)
    assert not Segment(name="x", bits=16, kind="signed", clip=clip, fraction_bits=bits + 1, max_length=1).has_headroom(
        sites
    )


def test_the_error_of_16_bits_is_shown_beside_32():
    """Five sites at full weight: 2^-22 steps as they are, 2^-10 in 16 bits, which is 4096 times coarser."""
    facts = describe(roster(5))
    (delta, aux, _), (half, _) = facts.segments, facts.halved
    assert (aux.error_rms, aux.error_maximum) == (None, None)
    assert delta.error_maximum == pytest.approx(2.0**-22)
    assert half.segment.fraction_bits == 10
    assert half.error_maximum == pytest.approx(2.0**-10)
    assert half.error_rms == pytest.approx(5**0.5 * 2.0**-10 / 10)


def test_what_has_no_headroom_in_16_bits_is_not_offered():
    """With 10000 sites no 16-bit ring fits a clip of 4, so none is shown."""
    assert describe(roster(10_000)).halved == ()


def test_a_consortium_opens_with_both_keys(tmp_path: Path):
    """Root and authority unseal under one secret, and the authority's certificate is its own, for ten years at most."""
    public = make_consortium(tmp_path, name="heart-net", secret=SECRET, now=NOW)
    opened = open_consortium(tmp_path, SECRET, now=NOW)
    assert opened.public == public
    public.ed25519().verify(opened.root.sign(b"x"), b"x")
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        open_consortium(tmp_path, Secret(kind="key-file", value=bytes(32)), now=NOW)
    with pytest.raises(IntegrityError, match="this one expired at 2040-01-01"):
        open_consortium(tmp_path, SECRET, now=NOW + timedelta(days=3660))


def test_mixed_folders_do_not_open(tmp_path: Path):
    """The root of one consortium beside the public file, or the authority, of another is refused."""
    for name in ("a", "b"):
        make_consortium(tmp_path / name, name=name, secret=SECRET, now=NOW)
    one, other = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    certificate = one.authority.read_bytes()
    one.authority.write_bytes(other.authority.read_bytes())
    with pytest.raises(IntegrityError, match="expected its certificate and its own key"):
        open_consortium(tmp_path / "a", SECRET, now=NOW)
    one.authority.write_bytes(certificate)
    one.public.write_bytes(other.public.read_bytes())
    with pytest.raises(IntegrityError, match="expected both halves of one root key"):
        open_consortium(tmp_path / "a", SECRET, now=NOW)
