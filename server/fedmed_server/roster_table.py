"""A roster as text for the person who signs or receives it.

Why it exists: sites, thresholds and errors are compared by people, at a terminal and on the
telephone; so the lines are short, aligned, and say what a figure is for.

Rules:
    * Every line stands in 100 columns; a fingerprint takes two lines of eight blocks.
    * A figure that surprises (no loss tolerated, no headroom for all sites) is said in words.

What it does not do: compute (see `rosters`) or print.
"""

from collections.abc import Iterable

from fedmed.crypto.fingerprints import two_lines
from fedmed_server.rosters import RosterFacts, SegmentFacts


def table(facts: RosterFacts) -> str:
    """Return the table of `facts`, without a final end of line."""
    lines = [*_head(facts), "", *_sites(facts), "", *_policy(facts), "", *_segments(facts)]
    return "\n".join([*lines, *_remarks(facts)])


def _head(facts: RosterFacts) -> Iterable[str]:
    start = facts.valid_from or "when it was signed"
    end = facts.valid_until or "the next edition"
    yield f"Roster serial {facts.serial}, in force from {start} until {end}"


def _sites(facts: RosterFacts) -> Iterable[str]:
    width = max(len("site"), *(len(site.name) for site in facts.sites))
    yield f"{'site':<{width}}  fingerprint of its signing key"
    for site in facts.sites:
        first, second = two_lines(site.fingerprint)
        yield f"{site.name:<{width}}  {first}"
        yield f"{'':<{width}}  {second}"


def _policy(facts: RosterFacts) -> Iterable[str]:
    size = len(facts.sites)
    rows = (
        ("n_min", f"{facts.n_min}", "fewest sites that any sum may cover"),
        ("max_corrupt", f"{facts.max_corrupt}", "sites that may side with the coordinator (c)"),
        ("max_weight", f"{facts.max_weight:g}", "largest weight of one site"),
        (f"with all {size} sites", "", ""),
        ("  threshold", f"{facts.threshold}", "signatures that certify the survivors (t)"),
        ("  up to upload", f"{facts.gate}", f"sites needed; {_losses(facts.losses_before_upload)} tolerated"),
        ("  after upload", f"{facts.threshold}", f"sites needed; {_losses(facts.losses_after_upload)} tolerated"),
    )
    for name, value, meaning in rows:
        yield f"{name:<16}{value:>10}  {meaning}".rstrip()


def _losses(count: int) -> str:
    return {0: "no loss", 1: "1 loss"}.get(count, f"{count} losses")


def _segments(facts: RosterFacts) -> Iterable[str]:
    yield "segment   bits  kind         within       step     most sites  error of the mean: rms   at most"
    for part in facts.segments:
        yield _segment(part)
    if facts.halved:
        yield "in 16 bits instead (half the bytes):"
        for part in facts.halved:
            yield _segment(part)


def _segment(part: SegmentFacts) -> str:
    segment = part.segment
    if part.error_rms is None or part.error_maximum is None:
        step, errors = "whole", f"{'exact':>22}"
    else:
        step, errors = f"2^-{segment.fraction_bits}", f"{part.error_rms:>22.1e}  {part.error_maximum:>8.1e}"
    within = f"{'0 to ' if segment.kind == 'nonnegative' else '+-'}{segment.clip:.4g}"
    start = f"{segment.name:<10}{segment.bits:>4}  {segment.kind:<11}  {within:<11}  {step:<7}"
    return f"{start}{part.most_sites:>12}  {errors}"


def _remarks(facts: RosterFacts) -> Iterable[str]:
    size = len(facts.sites)
    yield ""
    yield "Errors are per coordinate of the update, with all sites at max_weight; at a tenth of it, ten times that."
    if facts.losses_before_upload == 0:
        yield "Note: one site that fails before its upload stops the round; a further site would let one be lost."
    for part in facts.segments:
        if part.most_sites < size:
            yield f"Note: segment {part.segment.name} has headroom for {part.most_sites} of {size} sites in one round."
