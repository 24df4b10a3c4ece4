"""A crash at any write: the site sends identical bytes again, or drops out."""

from dataclasses import replace
from typing import Any

import pytest

from fedmed.errors import IntegrityError, ProtocolError
from fedmed.secagg import wire
from fedmed.secagg.attempt import Phase
from fedmed.secagg.messages import (
    CertifyRequest,
    Finish,
    MaskRequest,
    Offer,
    Refusal,
    ShareRequest,
    UnmaskRequest,
)
from fedmed.secagg.state import ClientState, dump, load
from fedmed.secagg.state import Phase as SitePhase

REPEATED = [Offer, ShareRequest, MaskRequest, CertifyRequest]


def no_entropy(size: int) -> bytes:
    """Stand for a source that must not be asked: a repeated reply draws nothing."""
    raise AssertionError(f"asked for {size} bytes")


@pytest.mark.parametrize("kind", REPEATED)
def test_a_restart_after_the_write_resends_identical_bytes(bench: Any, kind: Any):
    """Killed between write and reply, the site answers the same request with the same bytes, and the sum is exact."""
    cohort = bench.Cohort(4)
    site = cohort.sites["site2"]
    compared = []

    def down(name: Any, message: Any) -> Any:
        if name == "site2" and isinstance(message, kind):
            first = site.answer(message, cohort.roster)
            stored = site.stored
            second = site.answer(message, cohort.roster, entropy=no_entropy)
            compared.append(wire.encode(first) == wire.encode(second))
            assert site.stored == stored
        return message

    cohort.assert_exact(cohort.play(down=down))
    assert compared == [True]


def test_a_restart_at_every_write_of_every_site(bench: Any):
    """Every site is killed after every write of a round; the round ends exact all the same."""
    cohort = bench.Cohort(4)

    def down(name: Any, message: Any) -> Any:
        if not isinstance(message, UnmaskRequest):
            cohort.sites[name].answer(message, cohort.roster)
        return message

    cohort.assert_exact(cohort.play(down=down))


@pytest.mark.parametrize("kind", [*REPEATED, UnmaskRequest])
def test_a_crash_before_the_write_is_as_if_nothing_came(bench: Any, kind: Any):
    """Killed before the write, nothing had left: the site answers anew from the older state."""
    cohort = bench.Cohort(4)
    site = cohort.sites["site2"]

    def down(name: Any, message: Any) -> Any:
        if name == "site2" and isinstance(message, kind):
            stored = site.stored
            site.answer(message, cohort.roster)
            site.stored = stored
        return message

    cohort.assert_exact(cohort.play(down=down))


def test_a_crash_after_erasure_drops_the_site_out(bench: Any):
    """The unmasking is not repeated: its secrets are gone, so the site drops out and the rest suffices."""
    cohort = bench.Cohort(4)
    site = cohort.sites["site2"]

    def down(name: Any, message: Any) -> Any:
        if name == "site2" and isinstance(message, UnmaskRequest):
            site.answer(message, cohort.roster)
            with pytest.raises(ProtocolError, match="UnmaskRequest: not allowed for a site that is idle"):
                site.answer(message, cohort.roster)
            return None
        return message

    cohort.assert_exact(cohort.play(down=down))


@pytest.mark.parametrize("case", ["other", "none"])
def test_a_site_that_lost_its_update_drops_out(bench: Any, case: Any):
    """After a crash another update, or none, is not masked under the keys that masked the first."""
    cohort = bench.Cohort(4)
    site = cohort.sites["site2"]
    replies = []

    def down(name: Any, message: Any) -> Any:
        if name != "site2" or not isinstance(message, MaskRequest):
            return message
        site.answer(message, cohort.roster)
        site.train("retrained")
        changes = {"contribution": None} if case == "none" else {}
        replies.append(site.answer(message, cohort.roster, **changes))
        return None

    cohort.play(down=down)
    assert isinstance(replies[0], Refusal)
    expected = "expected the one that was masked before" if case == "other" else "expected one for this round, got none"
    assert expected in replies[0].reason
    assert "drops out" in replies[0].reason
    assert site.state.phase is SitePhase.IDLE


def test_the_same_update_under_another_weight_is_not_masked_again(bench: Any):
    """The resent vector must have the hash of the first; a changed weight gives another, so the site drops out."""
    cohort = bench.Cohort(4)
    site = cohort.sites["site2"]
    replies = []

    def down(name: Any, message: Any) -> Any:
        if name != "site2" or not isinstance(message, MaskRequest):
            return message
        site.answer(message, cohort.roster)
        lighter = replace(site.contribution, weight=site.contribution.weight / 3)
        replies.append(site.answer(message, cohort.roster, contribution=lighter))
        return None

    cohort.play(down=down)
    assert "expected the masked vector of before, got another" in replies[0].reason


@pytest.mark.parametrize("kind", [ShareRequest, MaskRequest])
def test_another_request_in_the_place_of_the_first_is_refused(bench: Any, kind: Any):
    """A coordinator can't use a crash to get a second answer: any change of the request ends the attempt."""
    cohort = bench.Cohort(4)
    site = cohort.sites["site2"]
    replies = []

    def down(name: Any, message: Any) -> Any:
        if name != "site2" or not isinstance(message, kind):
            return message
        site.answer(message, cohort.roster)
        other = (
            replace(message, adverts=message.adverts[:3])
            if kind is ShareRequest
            else replace(message, headers=message.headers[:3], boxes=message.boxes[:2])
        )
        replies.append(site.answer(other, cohort.roster))
        return None

    cohort.play(down=down)
    assert "expected the same request again, got a second, other one" in replies[0].reason
    assert site.state.phase is SitePhase.IDLE


def test_every_state_of_a_round_survives_its_bytes(bench: Any):
    """Dump and load are inverse for each state that a run goes through, and the bytes are canonical."""
    cohort = bench.Cohort(3)
    cohort.play(pipeline=True)
    for site in cohort.sites.values():
        site.train("next")
    cohort.play(cohort.offer(round=2), until=Phase.CERTIFYING)
    cohort.sites["site1"].answer(Finish(run="run"), cohort.roster)
    states = [data for site in cohort.sites.values() for data in site.history]
    assert len(states) > 20
    for data in states:
        assert dump(load(data)) == data


@pytest.mark.parametrize(
    "data",
    [b"", b"FMSS", b"FMSA\x01", b"FMSS\x02" + dump(ClientState())[5:], dump(ClientState())[:-1], b"FMSS\x01\xff"],
)
def test_bytes_that_are_no_state_are_refused(data: Any):
    """Foreign, truncated or future bytes are not guessed at."""
    with pytest.raises(IntegrityError, match="expected"):
        load(data)
