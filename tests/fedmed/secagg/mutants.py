"""Test power: remove one check at a time from a copy of the code and see some test turn red.

Run from the repository: `python tests/fedmed/secagg/mutants.py [name ...]`. It copies `fedmed` and
these tests to a temporary folder, edits the copy, runs the fast tests until the first failure, and
prints a table. It exits with 1 if a mutant survives. Nothing in the checkout is changed.
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
    "stochastic rounding": (Swap(file="masking.py", old="[1::2] * 2.0**-32", new="[1::2] * 0.0 + 0.5"),),
    "the PRG": (Swap(file="masking.py", old="encryptor.update_into(_ZEROS[:length], buffer)", new="pass"),),
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
    "finite values": (Swap(file="masking.py", old="if not np.isfinite(chunk).all():", new="if False:"),),
    "the altered upload": (Swap(file="server.py", old="if digest != masked.upload.digest:", new="if False:"),),
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
            new="    if isinstance(event, Masked):\n        return _accept_masked(state, event)\n"
            "    if isinstance(event, Unmasked) and",
        ),
    ),
    "the serial of the roster": (
        Swap(file="roster.py", old="if signed.roster.serial < least_serial:", new="if False:"),
    ),
    "one encoding": (Swap(file="wire.py", old="if encode(message) != data:", new="if False:"),),
}
"""Further checks, to the same end."""


def run(edits: tuple[Void | Swap, ...]) -> tuple[str, float]:
    """Run the tests on a copy with `edits`; return the first test that failed, or "", and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="fedmed-mutant-") as folder:
        copy = Path(folder)
        (copy / TESTS.parent).mkdir(parents=True)
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / SOURCES, copy / SOURCES, ignore=skip)
        for name in ("__init__.py", "errors.py", "files.py", "records.py"):
            shutil.copy(ROOT / "fedmed" / name, copy / "fedmed" / name)
        shutil.copytree(ROOT / TESTS, copy / TESTS, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for edit in edits:
            path = copy / SOURCES / edit.file
            path.write_text(edit.apply(path.read_text()))
        start = time.monotonic()
        done = subprocess.run(  # noqa: S603  our own interpreter on our own tests
            [sys.executable, "-m", "pytest", str(TESTS), "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"],
            cwd=copy, capture_output=True, text=True, check=False,
        )  # fmt: skip
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        red = failed[0].split(" - ")[0].rpartition("/")[2] if failed else ""
        return red or ("" if done.returncode == 0 else "did not run"), time.monotonic() - start


def main(names: list[str]) -> int:
    """Print one line per mutant; return 1 if one survives."""
    mutants = {name: edits for name, edits in {**NAMED, **MORE}.items() if not names or name in names}
    survivors = 0
    for name, edits in {"(none)": (), **mutants}.items():
        red, seconds = run(edits)
        good = bool(red) is bool(edits) and red != "did not run"
        survivors += not good
        sys.stdout.write(f"{name:34} {seconds:5.1f} s  {'ok ' if good else 'BAD'}  {red or 'all green'}\n")
        sys.stdout.flush()
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
