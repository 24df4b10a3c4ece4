"""A coordinator that deviates: it tells sites different things and collects all it can get."""

import struct
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from fedmed.errors import ProtocolError
from fedmed.secagg import wire
from fedmed.secagg.attempt import Phase
from fedmed.secagg.messages import CertifyRequest, Refusal, Unmasked, UnmaskRequest


def split_views(cohort: Any, views: dict[str, tuple[str, ...]]) -> list[Unmasked]:
    """Certify another survivor set with each site, unmask with whatever was signed, return what leaked."""
    state = cohort.play(until=Phase.CERTIFYING)
    certificates = {}
    for name, view in views.items():
        uploads = tuple(state.uploads[site] for site in view)
        reply = cohort.sites[name].answer(CertifyRequest(turn=state.offer.turn, uploads=uploads), cohort.roster)
        if not isinstance(reply, Refusal):
            certificates[name] = reply
    leaked = []
    for name, own in certificates.items():
        same = tuple(cert for peer, cert in certificates.items() if views[peer] == views[name])
        mine = tuple(replace(own, site=peer) for peer in views[name])
        for chosen in (tuple(certificates.values()), same, (own,) * len(views), mine):
            stored = cohort.sites[name].stored
            request = UnmaskRequest(turn=state.offer.turn, certificates=chosen, pipeline=False)
            try:
                reply = cohort.sites[name].answer(request, cohort.roster)
            except ProtocolError:
                continue
            if isinstance(reply, Unmasked):
                leaked.append(reply)
                break
            cohort.sites[name].stored = stored  # the attacker may try each forgery on a site that hasn't moved
    return leaked


@pytest.mark.parametrize(("size", "corrupt"), [(3, 0), (4, 0), (5, 0), (5, 1), (6, 0), (6, 2), (7, 0), (7, 3)])
def test_split_survivor_views_never_open_both_secrets_of_a_site(bench: Any, size: Any, corrupt: Any):
    """However the sites are split between two views, shares leave for one view at most, and never t of both kinds."""
    for count in range(1, size):
        cohort = bench.Cohort(size, corrupt=corrupt)
        offer = cohort.offer()
        everyone, victim = cohort.names, cohort.names[0]
        without = tuple(name for name in everyone if name != victim)
        told = everyone[size - count :]
        views = {name: without if name in told else everyone for name in everyone}
        leaked = split_views(cohort, views)
        shown = {tuple(item.owner for item in reply.seeds) for reply in leaked}
        assert len(shown) <= 1
        for owner in everyone:
            seeds = sum(any(item.owner == owner for item in reply.seeds) for reply in leaked)
            secrets = sum(any(item.owner == owner for item in reply.keys) for reply in leaked)
            # The curious sites hold a share of each kind, and show both.
            assert min(seeds, secrets) + corrupt < offer.threshold


def test_every_pair_of_views_of_five_sites(bench: Any):
    """For each two survivor sets of five sites, told to any halves, shares leave for one of them at most."""
    names = bench.Cohort(5).names
    sets = [view for size in (3, 4, 5) for view in combinations(names, size)]
    for left, right in [(sets[0], sets[-1]), (sets[3], sets[-2]), (sets[9], sets[10]), (sets[10], sets[14])]:
        for half in (2, 3):
            cohort = bench.Cohort(5)
            views = {name: left if index < half else right for index, name in enumerate(names)}
            leaked = split_views(cohort, views)
            assert len({tuple(item.owner for item in reply.seeds) for reply in leaked}) <= 1


def test_each_site_shows_one_share_of_each_peer(bench: Any):
    """In a fair round with a dropout no reply has both shares of a site, nor any site in both lists."""
    cohort = bench.Cohort(5)
    replies = []

    def up(name: Any, message: Any) -> Any:
        if isinstance(message, Unmasked):
            replies.append(message)
        return message

    cohort.assert_exact(cohort.play(drops={"site4": 2}, up=up))
    assert len(replies) >= 3
    for reply in replies:
        assert {item.owner for item in reply.seeds} == {"site1", "site2", "site3", "site5"}
        assert {item.owner for item in reply.keys} == {"site4"}


def test_two_attempts_of_one_round_share_no_secret(bench: Any):
    """A retry deals fresh secrets, so shares of two attempts never add up."""
    cohort = bench.Cohort(3)
    cohort.play(until=Phase.CERTIFYING)
    first = {name: site.state for name, site in cohort.sites.items()}
    cohort.play(cohort.offer(attempt=1), until=Phase.CERTIFYING)
    for name, site in cohort.sites.items():
        old, new = first[name], site.state
        assert old.dealt.seed != new.dealt.seed
        assert old.dealt.rounding != new.dealt.rounding
        assert old.advertised.pair.mask_secret != new.advertised.pair.mask_secret
        assert old.advertised.pair.enc_secret != new.advertised.pair.enc_secret


def test_certificates_of_an_older_attempt_open_nothing(bench: Any):
    """Certificates are over h3, which has the turn in it; an old set is refused."""
    cohort = bench.Cohort(3)
    old = cohort.play().certificates
    for site in cohort.sites.values():
        site.train("next")
    state = cohort.play(cohort.offer(round=2), until=Phase.CERTIFYING)
    request = CertifyRequest(turn=state.offer.turn, uploads=tuple(state.uploads.values()))
    for site in cohort.sites.values():
        site.answer(request, cohort.roster)
        forged = UnmaskRequest(turn=state.offer.turn, certificates=tuple(old.values()), pipeline=False)
        assert "certificate of site1: expected its signature" in site.answer(forged, cohort.roster).reason


def test_no_message_holds_a_weight_a_count_or_a_metric(bench: Any):
    """Neither as a number of any width nor as text do w, the counts or the update appear in what a site sends."""
    cohort = bench.Cohort(3)
    for site in cohort.sites.values():
        site.contribution = replace(site.contribution, weight=61.375)
        site.contribution.values["aux"][:] = [918_273_645, 918_273_646, 918_273_647, 918_273_648]
    cohort.assert_exact(cohort.play(pipeline=True))
    numbers = [918_273_645, 918_273_646, 918_273_647, 918_273_648]
    marks = [struct.pack(order + kind, number) for number in numbers for order in "<>" for kind in "IQ"]
    marks += [str(number).encode() for number in numbers]
    marks += [struct.pack(order + kind, 61.375) for order in "<>" for kind in "fd"] + [b"61.375"]
    for site in cohort.sites.values():
        update = site.contribution.values["delta"]
        for data in site.sent:
            assert not any(mark in data for mark in marks)
            assert update[:1].tobytes() not in data
            assert wire.encode(wire.decode(data)) == data
