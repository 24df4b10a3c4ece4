"""Test power: remove one check at a time from a copy of the code and see some test turn red.

Run from the repository: `python tests/fedmed/secagg/mutants.py [name ...]`. It copies `fedmed` and
these tests to a temporary folder, edits the copy, runs tests until the first failure, and prints a
table. The test that was last seen red comes first; only where it stays green do all fast tests run.
It exits with 1 if a mutant survives. Nothing in the checkout is changed.
"""

import ast
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
TESTS: Final = Path("tests/fedmed/secagg")
SOURCES: Final = Path("fedmed/secagg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Void:
    """Empty the body of one function."""

    file: str
    function: str

    def apply(self, text: str) -> str:
        """Return `text` with the function's statements replaced by `return`."""
        found = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.name == self.function
        ]
        (node,) = found
        lines = text.splitlines(keepends=True)
        start, end = node.body[1].lineno - 1, node.end_lineno
        return "".join([*lines[:start], " " * node.body[1].col_offset + "return\n", *lines[end:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Replace one piece of text, which must occur exactly once."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """Return `text` with the piece replaced."""
        if text.count(self.old) != 1:
            raise SystemExit(f"{self.file}: expected once, found {text.count(self.old)} times: {self.old!r}")
        return text.replace(self.old, self.new)


NAMED: Final[dict[str, tuple[Void | Swap, ...]]] = {
    "certificates": (Void(file="checks.py", function="check_certificates"),),
    "threshold floor": (Void(file="checks.py", function="check_floors"),),
    "signatures": (Void(file="roster.py", function="verify"),),
    "replay": (Void(file="checks.py", function="check_fresh"),),
    "spent update": (Void(file="checks.py", function="check_unspent"),),
    "share commitments": (Void(file="checks.py", function="check_committed"),),
    "erasure": (Swap(file="client.py", old="replace(state.erased(), early=early)", new="replace(state, early=early)"),),
    "stochastic rounding": (
        Swap(file="masking.py", old="        yield uniform\n", new="        yield np.full_like(uniform, 0.5)\n"),
    ),
    "the PRG": (Swap(file="masking.py", old="cipher.update_into(_ZEROS[:size], buffer)", new="pass"),),
    "the self mask": (
        Swap(file="uploading.py", old="added = [keys.self_seed(dealt.seed, dealt.h1)]", new="added: list[bytes] = []"),
        Swap(
            file="unmasking.py",
            old="added = [keys.self_seed(seed, h1) for seed in seeds.values()]",
            new="added: list[bytes] = []",
        ),
    ),
}
"""The ten checks that the design names."""

MORE: Final[dict[str, tuple[Void | Swap, ...]]] = {
    "the pair masks": (
        Swap(file="uploading.py", old="(added if site < advert.site else subtracted).append(seed)", new="pass"),
        Swap(file="unmasking.py", old="(added if peer < site else subtracted).append(seed)", new="pass"),
    ),
    "a PRG of 32 bits": (Swap(file="transcript.py", old="derive(seed)\n", new="derive(seed[:4] + bytes(28))\n"),),
    "one keystream for all segments": (
        Swap(
            file="masking.py",
            old="transcript.expand(seed, label, name.encode(), transcript.number(bits), transcript.number(length))",
            new="transcript.expand(seed, label)",
        ),
    ),
    "gates": (Void(file="checks.py", function="check_gate"),),
    "the model hash": (Swap(file="checks.py", old="if not keys.equal(offer.model, model):", new="if False:"),),
    "the roster hash": (
        Swap(file="checks.py", old="if not keys.equal(offer.roster, roster.digest()):", new="if False:"),
    ),
    "sites of the roster": (Swap(file="checks.py", old="    if strangers:", new="    if False:"),),
    "headroom": (Swap(file="checks.py", old="if not segment.has_headroom(len(offer.cohort)):", new="if False:"),),
    "own advert intact": (Swap(file="checks.py", old="if own not in adverts:", new="if False:"),),
    "own header intact": (Swap(file="checks.py", old="if own not in headers:", new="if False:"),),
    "own upload intact": (Swap(file="checks.py", old="if own not in uploads:", new="if False:"),),
    "distinct keys": (Swap(file="checks.py", old="if len(set(public)) != len(public):", new="if False:"),),
    "the offer stays the same": (Swap(file="client.py", old="if offer != state.advertised.offer:", new="if False:"),),
    "one answer per phase": (
        Swap(file="client.py", old="if _REPEATS.get(state.phase) is type(message):", new="if False:"),
    ),
    "identical update after a crash": (
        Swap(file="client.py", old="if update_ids != uploaded.update_ids:", new="if False:"),
    ),
    "identical vector after a crash": (
        Swap(file="client.py", old="if reply.upload != uploaded.upload:", new="if False:"),
    ),
    "a refusal ends the attempt": (
        Swap(file="client.py", old="return state.ended(message.turn), Refusal(", new="return state, Refusal("),
    ),
    "the turn of a message": (Swap(file="client.py", old="if message.turn != expected:", new="if False:"),),
    "early adverts used once": (
        Swap(
            file="client.py",
            old="follower = replace(state, early=None, advertised",
            new="follower = replace(state, advertised",
        ),
    ),
    "terms behind an early advert": (
        Swap(
            file="client.py",
            old="        pair = _need(state.early)\n        checks.check_offer(",
            new="        pair = _need(state.early)\n        (lambda *_, **__: None)(",
        ),
    ),
    "associated data of a box": (
        Swap(file="keys.py", old="return transcript.pack(h1, sender.encode(), holder.encode())", new='return b""'),
        Swap(
            file="keys.py",
            old='derive(shared, h1, "enc", sender.encode(), holder.encode())',
            new='derive(shared, b"", "enc")',
        ),
    ),
    "finite values": (Swap(file="masking.py", old="if not np.isfinite(values).all():", new="if False:"),),
    "the altered upload": (Swap(file="phases.py", old="if digest != masked.upload.digest:", new="if False:"),),
    "the rebuilt seed": (
        Swap(
            file="unmasking.py",
            old="if not keys.equal(headers[site].seed, keys.commit_seed(h1, site, seed)):",
            new="if False:",
        ),
    ),
    "the rebuilt key": (
        Swap(
            file="unmasking.py",
            old="if not keys.equal(adverts[site].mask_key, keys.public_key(secret)):",
            new="if False:",
        ),
    ),
    "late uploads": (
        Swap(
            file="server.py",
            old="    if isinstance(event, Unmasked) and",
            new="    if isinstance(event, TABLE[Phase.MASKING].event):\n"
            "        return TABLE[Phase.MASKING].accept(state, event)\n"
            "    if isinstance(event, Unmasked) and",
        ),
    ),
    "the serial of the roster": (
        Swap(file="roster.py", old="if signed.roster.serial < least_serial:", new="if False:"),
    ),
    "one encoding": (Swap(file="wire.py", old="if encode(message) != data:", new="if False:"),),
}
"""Further checks, to the same end."""


SEEN_RED: Final[dict[str, str]] = {
    "certificates": "test_lying_coordinator.py::test_every_pair_of_views_of_five_sites",
    "threshold floor": "test_server.py::test_unfair_terms_are_refused_before_anyone_is_asked",
    "signatures": "test_roster.py::test_a_signature_of_a_stranger_is_refused",
    "replay": "test_client.py::test_an_old_turn_is_refused",
    "spent update": "test_client.py::test_a_spent_update_is_never_offered_again",
    "share commitments": "test_client.py::test_a_share_that_was_not_committed_to_is_refused",
    "erasure": "test_client.py::test_after_unmasking_nothing_of_the_attempt_is_left",
    "stochastic rounding": "test_masking.py::test_rounding_is_stochastic_and_unbiased",
    "the PRG": "test_masking.py::test_a_mask_is_the_documented_keystream",
    "the self mask": "test_client.py::test_masked_bytes_follow_the_documented_formula",
    "the pair masks": "test_client.py::test_masked_bytes_follow_the_documented_formula",
    "a PRG of 32 bits": "test_masking.py::test_a_mask_is_the_documented_keystream",
    "one keystream for all segments": "test_masking.py::test_a_mask_is_the_documented_keystream",
    "gates": "test_client.py::test_too_few_adverts_are_refused_and_the_missing_named",
    "the model hash": "test_client.py::test_terms_below_the_policy_are_refused_before_any_key_exists",
    "the roster hash": "test_client.py::test_terms_below_the_policy_are_refused_before_any_key_exists",
    "sites of the roster": "test_client.py::test_terms_below_the_policy_are_refused_before_any_key_exists",
    "headroom": "test_client.py::test_a_cohort_without_headroom_is_refused",
    "own advert intact": "test_client.py::test_our_own_key_changed_is_refused",
    "own header intact": "test_client.py::test_changed_shares_are_refused",
    "own upload intact": "test_client.py::test_changed_uploads_are_not_certified",
    "distinct keys": "test_client.py::test_one_key_twice_is_refused",
    "the offer stays the same": "test_client.py::test_other_terms_with_the_adverts_are_refused",
    "one answer per phase": "test_crash.py::test_another_request_in_the_place_of_the_first_is_refused",
    "identical update after a crash": "test_crash.py::test_a_site_that_lost_its_update_drops_out",
    "identical vector after a crash": "test_crash.py::test_the_same_update_under_another_weight_is_not_masked_again",
    "a refusal ends the attempt": "test_client.py::test_two_offers_for_one_turn_end_the_attempt",
    "the turn of a message": "test_client.py::test_a_message_of_another_turn_raises_and_changes_nothing",
    "early adverts used once": "test_client.py::test_an_early_advert_is_used_once",
    "terms behind an early advert": "test_client.py::test_model_and_floors_are_checked_when_an_early_advert_is_used",
    "associated data of a box": "test_primitives.py::test_both_ends_derive_the_same_pair_seed_and_different_box_keys",
    "finite values": "test_masking.py::test_a_value_that_is_not_finite_is_refused",
    "the altered upload": "test_server.py::test_a_bad_reply_drops_its_sender_and_the_sum_stays_exact",
    "the rebuilt seed": "test_server.py::test_a_dealer_of_inconsistent_shares_is_named",
    "the rebuilt key": "test_server.py::test_a_dealer_of_inconsistent_shares_is_named",
    "late uploads": "test_server.py::test_a_late_upload_is_dropped",
    "the serial of the roster": "test_roster.py::test_an_old_edition_is_refused",
    "one encoding": "test_messages.py::test_a_second_encoding_of_a_message_is_refused",
}
"""The test that each mutant turned red when it was last tried; a stale row costs time and nothing else."""

_DID_NOT_RUN: Final = "did not run"


def run(edits: tuple[Void | Swap, ...], *, first: str | None = None) -> tuple[str, float]:
    """Run the tests on a copy with `edits`; return the first test that failed, or "", and the seconds it took.

    Args:
        edits: What to change in the copy.
        first: A test to try before all the others.
    """
    with tempfile.TemporaryDirectory(prefix="fedmed-mutant-") as folder:
        copy = Path(folder)
        (copy / TESTS.parent).mkdir(parents=True)
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / SOURCES, copy / SOURCES, ignore=skip)
        for module in (ROOT / "fedmed").glob("*.py"):
            shutil.copy(module, copy / "fedmed" / module.name)
        shutil.copytree(ROOT / TESTS, copy / TESTS, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for edit in edits:
            path = copy / SOURCES / edit.file
            path.write_text(edit.apply(path.read_text()))
        start = time.monotonic()
        red = _first_failure(copy, TESTS / first) if first else ""
        if red in ("", _DID_NOT_RUN):
            red = _first_failure(copy, TESTS)
        return red, time.monotonic() - start


def _first_failure(copy: Path, tests: Path) -> str:
    """Return the first of `tests` that fails in `copy`, or "" if all pass."""
    done = subprocess.run(  # noqa: S603  our own interpreter on our own tests
        [sys.executable, "-m", "pytest", str(tests), "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider",
         "-p", "no:randomly"], cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    red = failed[0].split(" - ")[0].rpartition("/")[2] if failed and done.returncode == 1 else ""
    return red or ("" if done.returncode == 0 else _DID_NOT_RUN)


def main(names: list[str]) -> int:
    """Print one line per mutant; return 1 if one survives."""
    mutants = {name: edits for name, edits in {**NAMED, **MORE}.items() if not names or name in names}
    survivors = 0
    for name, edits in {"(none)": (), **mutants}.items():
        red, seconds = run(edits, first=SEEN_RED.get(name))
        good = bool(red) is bool(edits) and red != _DID_NOT_RUN
        survivors += not good
        sys.stdout.write(f"{name:34} {seconds:5.1f} s  {'ok ' if good else 'BAD'}  {red or 'all green'}\n")
        sys.stdout.flush()
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
