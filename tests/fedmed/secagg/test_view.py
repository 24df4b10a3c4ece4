"""What the coordinator sees of a site is noise: each kind of mask alone makes it so."""

from typing import Any

import numpy as np
import pytest

from fedmed.secagg import keys, masking, wire
from fedmed.secagg.attempt import Phase
from fedmed.secagg.messages import Masked

SIZE = 1 << 18
CHI_SQUARE = (150, 380)
"""For 255 degrees of freedom; a uniform byte leaves this range once in 1e6."""


def masked_vectors(cohort: Any, offer: Any) -> dict[str, np.ndarray]:
    """Play up to the uploads and return y of each site."""
    cohort.play(offer, until=Phase.CERTIFYING)
    segment = cohort.roster.policy.segments[0]
    uploads = {}
    for name, site in cohort.sites.items():
        masked = [m for m in map(wire.decode, site.sent) if isinstance(m, Masked) and m.turn == offer.turn]
        uploads[name] = masking.from_bytes(masked[0].payload[0], segment, SIZE).copy()
    return uploads


def without_self_mask(cohort: Any, name: str, ring: np.ndarray) -> np.ndarray:
    """Take off the self mask, as a coordinator that learns b can."""
    dealt = cohort.sites[name].state.dealt
    masking.subtract_mask(ring, keys.self_seed(dealt.seed, dealt.h1), cohort.roster.policy.segments[0])
    return ring


def without_pair_masks(cohort: Any, name: str, ring: np.ndarray) -> np.ndarray:
    """Take off all pair masks, as a coordinator that learns s_sk can."""
    state = cohort.sites[name].state
    for advert in state.dealt.adverts:
        if advert.site != name:
            secret = state.advertised.pair.mask_secret
            seed = keys.pair_seed(secret, advert.mask_key, state.dealt.h1, site=name, peer=advert.site)
            remove = masking.subtract_mask if name < advert.site else masking.add_mask
            remove(ring, seed, cohort.roster.policy.segments[0])
    return ring


def chi_squares(ring: np.ndarray) -> list[float]:
    """Return the chi-square statistic of each byte lane against uniform bytes."""
    lanes = ring.view(np.uint8).reshape(-1, 4)
    expected = len(lanes) / 256
    return [float(((np.bincount(lanes[:, i], minlength=256) - expected) ** 2 / expected).sum()) for i in range(4)]


@pytest.fixture(scope="module")
def constant_cohort(bench: Any):
    """Return three sites whose updates are one constant, and what they uploaded in two rounds."""
    lengths = (SIZE, 4, 5, 3)
    cohort = bench.Cohort(3, lengths=lengths)
    for site in cohort.sites.values():
        site.contribution.values["delta"][:] = 0.25
    views = []
    for number in (1, 2):
        uploads = masked_vectors(cohort, cohort.offer(round=number))
        views.append(
            {
                "raw": {name: ring.copy() for name, ring in uploads.items()},
                "pairs": {name: without_self_mask(cohort, name, ring.copy()) for name, ring in uploads.items()},
                "self": {name: without_pair_masks(cohort, name, ring.copy()) for name, ring in uploads.items()},
            }
        )
    return views


@pytest.mark.parametrize("kind", ["raw", "pairs", "self"])
def test_constant_inputs_look_uniform_under_either_mask_alone(constant_cohort: Any, kind: Any):
    """With the self mask known, or the pair masks known, every byte lane still passes chi-square."""
    for view in constant_cohort:
        for ring in view[kind].values():
            assert all(CHI_SQUARE[0] < value < CHI_SQUARE[1] for value in chi_squares(ring))


@pytest.mark.parametrize("kind", ["raw", "pairs", "self"])
def test_a_view_is_uncorrelated_with_itself_and_with_other_sites(constant_cohort: Any, kind: Any):
    """Lagged and cross-site correlations stay below 0.01."""
    view = {name: ring.astype(np.float64) for name, ring in constant_cohort[0][kind].items()}
    for ring in view.values():
        for lag in (1, 2, 3, 4, 8, 16, 32768):
            assert abs(np.corrcoef(ring[:-lag], ring[lag:])[0, 1]) < 0.01
    names = sorted(view)
    for left, right in [(0, 1), (0, 2), (1, 2)]:
        assert abs(np.corrcoef(view[names[left]], view[names[right]])[0, 1]) < 0.01


@pytest.mark.parametrize("kind", ["raw", "pairs", "self"])
def test_masks_differ_between_rounds(constant_cohort: Any, kind: Any):
    """The same input looks unrelated in the next round."""
    first, second = (view[kind] for view in constant_cohort)
    for name, ring in first.items():
        assert (ring == second[name]).mean() < 1e-4
        assert abs(np.corrcoef(ring.astype(float), second[name].astype(float))[0, 1]) < 0.01


def test_the_wire_carries_hardly_more_than_the_floats(bench: Any):
    """Everything that ten sites send, over the bytes of their fp32 updates, is at most 1.02."""
    lengths = (SIZE, 4, 0, 0)
    cohort = bench.Cohort(10, lengths=lengths)
    cohort.assert_exact(cohort.play(cohort.offer(), pipeline=True))
    sent = sum(len(data) for site in cohort.sites.values() for data in site.sent)
    assert sent <= 1.02 * 10 * 4 * SIZE
