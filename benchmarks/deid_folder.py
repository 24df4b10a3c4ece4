"""What de-identifying a whole folder costs and whether it loses anything: every file accounted for, memory, a kill.

Why it exists: "none lost, memory flat, killed and resumed: the same" is a claim about the command that a site types.

Run from the repository: `python benchmarks/deid_folder.py [--quick] [--files N] [--json PATH] [--seed N]`.

Rules:
    * The folder comes from the project's generator (`fedmed_sim.phantoms`), which does not know the rules; 2 % of its
      files are broken, and its manifest says which. The command runs as a user would start it, two workers, sealed.
    * Each file's fate is read from the manifest and the report that the command left, not from its own count.
    * The second run is killed (-9, its workers too) at half of the outputs, then the same command runs again.
    * NIfTI images and a small tagger on notes are timed in this process: CPU time.

What it does not do: compare with other tools (see `deid.py`), or look into the outputs (the tests do).
"""

import argparse
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.text import NoteCleaner, TextOptions
from fedmed.deid.text.gold import read_gold
from fedmed.deid.text.training import train_tagger
from fedmed_sim.phantoms.corpus import write_corpus
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.nifti import NiftiForm, draw_nifti
from fedmed_sim.phantoms.notes import write_gold
from fedmed_sim.phantoms.people import draw_person
from fedmed_site.deidentification_columns import Columns
from fedmed_site.deidentification_formats import Engines
from fedmed_site.deidentification_policy import load_choices
from fedmed_site.home import SiteHome
from fedmed_site.manifest import item_name

KEY: Final = bytes(range(32))
COMMAND: Final = (sys.executable, "-m", "fedmed")
WORKERS: Final = 2
LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFigures:
    """One run of the command over a folder; memory is resident, of the parent and of its largest worker."""

    files: int
    broken: int
    cleaned: int
    quarantined: int
    lost: int
    broken_but_cleaned: int
    reasons: Mapping[str, int]
    """Why sound files were set aside, and how many."""
    wall_s: float
    cpu_s: float
    parent_mb_early: float
    """At a tenth of the outputs."""
    parent_mb_late: float
    worker_mb_early: float
    worker_mb_late: float
    audit_verifies: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KillFigures:
    """What a killed and resumed run ended with, against the whole one."""

    outputs_at_the_kill: int
    items: int
    different: int


# --- the command over a folder ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A generated folder, its truths (how each item is broken, or None), the site's home, and the confirmed columns."""

    source: Path
    truths: Mapping[str, str | None]
    home: Path
    columns: Path

    @classmethod
    def made(cls, root: Path, *, files: int, seed: int) -> "Folder":
        """Write a folder and make a site."""
        source, manifest, home = root / "source", root / "truths.jsonl", root / "home"
        write_corpus(source, manifest, seed=seed, files=files)
        run(["site", "init", "--home", str(home), "--name", "north"])
        pseudonyms = Pseudonyms(SiteHome.open(home).pseudonym_key_path.read_bytes())
        lines = map(json.loads, manifest.read_text("utf-8").splitlines())
        truths = {item_name(line["path"], pseudonyms): line["corrupt"] for line in lines}
        made = cls(source=source, truths=truths, home=home, columns=root / "first" / "columns.yaml")
        run(made.words(root / "first")[:-2], expected=2)  # names the columns of the tables, and stops
        return made

    def words(self, out: Path) -> list[str]:
        """Return what a user types after `fedmed`."""
        return [
            "site", "deidentify", str(self.source), "--out", str(out), "--home", str(self.home), "--policy",
            "research-longitudinal", "--workers", str(WORKERS), "--columns", str(self.columns),
        ]  # fmt: skip


def run(words: Sequence[str], *, expected: int = 0) -> None:
    """Run a command of the project to its end.

    Raises:
        SystemExit: It ended otherwise than expected.
    """
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)  # noqa: S603  our own
    if done.returncode != expected:
        raise SystemExit(f"fedmed {words[0]} {words[1]}: expected rc {expected}, got {done.returncode}: {done.stderr}")


def outputs(out: Path) -> int:
    """Return how many outputs stand in a folder."""
    return sum(len(names) for _, _, names in os.walk(out / "items"))


def resident(process: psutil.Process) -> tuple[float, float]:
    """Return the resident megabytes of a process and of its largest child, 0 where one has ended."""
    found = [0.0, 0.0]
    for place, some in ((0, [process]), (1, process.children(recursive=True))):
        for one in some:
            try:
                found[place] = max(found[place], one.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                continue
    return found[0], found[1]


def measure_folder(folder: Folder, out: Path) -> FolderFigures:
    """Return what one run over a folder cost and what became of every file."""
    before, start = _children_cpu(), time.monotonic()
    early, late = (0.0, 0.0), (0.0, 0.0)
    with subprocess.Popen([*COMMAND, *folder.words(out)], stdout=subprocess.DEVNULL) as started:  # noqa: S603  our own
        process = psutil.Process(started.pid)
        while started.poll() is None:
            now, share = resident(process), outputs(out) / len(folder.truths)
            if share < 0.1:
                early = (max(early[0], now[0]), max(early[1], now[1]))
            late = (max(late[0], now[0]), max(late[1], now[1]))
            time.sleep(0.25)
    if started.returncode != 0:
        raise SystemExit(f"fedmed site deidentify: expected rc 0, got {started.returncode}")
    wall, spent = time.monotonic() - start, _children_cpu() - before
    fates = fates_of(out)
    broken = {item for item, way in folder.truths.items() if way}
    cleaned = {item for item, fate in fates.items() if fate.outcome == "cleaned"}
    verified = subprocess.run(  # noqa: S603  our own
        [*COMMAND, "audit", "verify", "--home", str(folder.home)], capture_output=True, check=False
    )
    return FolderFigures(
        files=len(folder.truths), broken=len(broken), cleaned=len(cleaned), quarantined=len(fates) - len(cleaned),
        lost=len(folder.truths.keys() - fates.keys()), broken_but_cleaned=len(broken & cleaned),
        reasons=dict(Counter(fates[item].reason for item in fates.keys() - cleaned - broken)),
        wall_s=wall, cpu_s=spent, parent_mb_early=early[0], parent_mb_late=late[0],
        worker_mb_early=early[1], worker_mb_late=late[1], audit_verifies=verified.returncode == 0,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of an item, as the manifest has it; the digest is of the output before it was sealed."""

    kind: str
    outcome: str
    reason: str
    output_sha256: str


def fates_of(out: Path) -> dict[str, Fate]:
    """Return the fate of every item in a folder's manifest."""
    items = json.loads((out / "manifest.json").read_bytes())["items"]
    return {one["item"]: Fate(one["kind"], one["outcome"], one["reason"], one["output_sha256"]) for one in items}


def measure_kill(folder: Folder, whole: Path, out: Path) -> KillFigures:
    """Kill a run at half of its outputs, resume it, and return how it differs from a whole one."""
    with subprocess.Popen(  # noqa: S603  our own
        [*COMMAND, *folder.words(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as started:
        while started.poll() is None and outputs(out) < outputs(whole) / 2:
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGKILL)
    stood = outputs(out)
    run(folder.words(out))
    one, other = fates_of(whole), fates_of(out)
    different = sum(one.get(item) != other.get(item) for item in one.keys() | other.keys())
    return KillFigures(outputs_at_the_kill=stood, items=len(other), different=different)


def _children_cpu() -> float:
    """Return the CPU seconds of all processes that were started here and have ended, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- images, and notes with a tagger --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiFigures:
    """NIfTI images of the generator: planted bytes left in outputs, and speed."""

    images: int
    planted: int
    left: int
    images_per_cpu_s: float
    voxel_mb_per_cpu_s: float


def measure_nifti(images: int, seed: int, root: Path) -> NiftiFigures:
    """Clean images of two people, half of them compressed, and search what was planted in what comes out."""
    policy = root / "nifti.yaml"
    policy.write_text("profile: own\ndates: shift\nk: 1\nfree_text: drop\nnifti: {faces: absent}\n", encoding="utf-8")
    engines = Engines(load_choices(str(policy)), Columns(columns=()), key=KEY)
    rng = np.random.default_rng(seed)
    people = [draw_person(rng, language) for language in LANGUAGES]
    work = root / "nifti"
    work.mkdir()
    planted = left = size = 0
    spent = 0.0
    for number in range(images):
        form = NiftiForm(version=2 if number % 2 else 1, compressed=number % 4 < 2)
        drawn = draw_nifti(rng, people[number % 2], name=f"image{number}", form=form)
        source = root / drawn.name
        source.write_bytes(drawn.payload)
        start = time.process_time()
        output = engines.clean(source, "nifti", item=f"{number:032x}", work=work, seal=None)
        spent += time.process_time() - start
        if output.file is None:
            raise SystemExit("an image gave no file; the engines have changed")
        data = output.file.path.read_bytes()
        data += gzip.decompress(data) if drawn.form.compressed else b""
        planted += len(drawn.secrets)
        left += sum(secret.is_in(data) for secret in drawn.secrets)
        size += len(drawn.voxels)
        source.unlink()
        output.file.path.unlink()
    return NiftiFigures(images=images, planted=planted, left=left, images_per_cpu_s=images / spent,
                        voxel_mb_per_cpu_s=size / 1e6 / spent)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerFigures:
    """Rules and a small tagger (two layers of width 128) together; trained briefly, so only its speed counts."""

    language: str
    notes: int
    notes_per_cpu_s: float


def measure_tagger(notes: int, seed: int, root: Path) -> list[TaggerFigures]:
    """Return the speed of the rules with a tagger as a further voice, per language."""
    lessons = root / "lessons.jsonl"
    write_gold(lessons, np.random.default_rng(seed + 1), languages=LANGUAGES, count=100)
    train_tagger(lessons, root / "tagger", seed=seed, steps=5)
    cleaner = NoteCleaner(options=TextOptions(tagger=str(root / "tagger")), key=KEY)
    found = []
    for language in LANGUAGES:
        gold = root / f"{language}.jsonl"
        write_gold(gold, np.random.default_rng(seed), languages=(language,), count=notes)
        drawn = [note for _, note in read_gold(gold)]
        start = time.process_time()
        for note in drawn:
            cleaner.clean(note.text, patient=note.patient)
        speed = len(drawn) / (time.process_time() - start)
        found.append(TaggerFigures(language=language, notes=len(drawn), notes_per_cpu_s=speed))
    return found


# --- the whole run ------------------------------------------------------------------------------------------------


def measure(files: int, *, quick: bool, seed: int) -> dict[str, Any]:
    """Return all figures, as JSON takes them."""
    results: dict[str, Any] = {"seed": seed, "quick": quick, "machine": f"{os.cpu_count()} cores, {sys.platform}"}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = Folder.made(root, files=files, seed=seed)
        results["folder"] = asdict(measure_folder(folder, root / "whole"))
        results["kill"] = asdict(measure_kill(folder, root / "whole", root / "killed"))
        results["nifti"] = asdict(measure_nifti(40 if quick else 400, seed, root))
        results["tagger"] = [asdict(one) for one in measure_tagger(40 if quick else 400, seed, root)]
    return results


def shown(results: Mapping[str, Any]) -> str:
    """Return the figures as lines for people."""
    folder, kill, nifti = results["folder"], results["kill"], results["nifti"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(folder["reasons"].items()))
    audit = "verifies" if folder["audit_verifies"] else "does NOT verify"
    lines = [
        (
            "{files} files, {broken} broken: {cleaned} cleaned, {quarantined} quarantined, {lost} lost, "
            "{broken_but_cleaned} broken but cleaned"
        ),
        f"  sound but set aside: {reasons}; the audit {audit}",
        (
            "  {wall_s:.0f} s, {cpu_s:.0f} CPU seconds; resident at a tenth and at most: parent {parent_mb_early:.0f}, "
            "{parent_mb_late:.0f} MB, largest worker {worker_mb_early:.0f}, {worker_mb_late:.0f} MB"
        ),
    ]
    lines = [line.format(**folder) for line in lines]
    lines.append("killed after {outputs_at_the_kill} outputs and resumed: {different} of {items} differ".format(**kill))
    lines.append(
        "NIfTI: {left} of {planted} planted left; {images_per_cpu_s:.0f} images, {voxel_mb_per_cpu_s:.1f} MB of voxels "
        "per CPU second".format(**nifti)
    )
    lines += [
        "tagger, {language}: {notes_per_cpu_s:.0f} notes per CPU second".format(**one) for one in results["tagger"]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="200 files, fewer images and notes; under a minute")
    parser.add_argument("--files", type=int, metavar="N", help="in the folder (default: 10,000)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here")
    parser.add_argument("--seed", type=int, default=2026, metavar="N", help="of the generator (default: 2026)")
    parsed = parser.parse_args(arguments)
    results = measure(parsed.files or (200 if parsed.quick else 10_000), quick=parsed.quick, seed=parsed.seed)
    sys.stdout.write(shown(results) + "\n")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
