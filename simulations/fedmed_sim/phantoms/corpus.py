"""A folder of mixed files as a hospital would hand it over, some of them broken, and the truths beside it.

Why it exists: fail-closed is a property of a whole run: every sound file out, every
broken one quarantined, none lost, whatever the mixture.

Rules:
    * The manifest is a JSONL file outside of the folder, one line per file, written as the files are.
    * Deterministic in `seed`: the same seed, the same bytes; nothing is kept in memory but the current patient.
    * The number of broken files is exact, and the ways of breaking take turns.
    * Paths hold nothing that identifies.

What it does not do: delete or overwrite; the folder must be new or empty.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.random import Generator

from fedmed.errors import UsageError
from fedmed_sim.phantoms.corruption import WAYS, corrupt
from fedmed_sim.phantoms.dicom import draw_files
from fedmed_sim.phantoms.draws import chance, pick
from fedmed_sim.phantoms.markup import Note
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.nifti import draw_form, draw_nifti
from fedmed_sim.phantoms.notes import draw_notes
from fedmed_sim.phantoms.people import draw_person
from fedmed_sim.phantoms.planted import Secret
from fedmed_sim.phantoms.tables import EXACT, Encoding, draw_table

MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Shares of the kinds of files; they are weights and need not sum to 1."""

    dicom: float = 0.6
    csv: float = 0.08
    txt: float = 0.22
    jsonl: float = 0.1
    nifti: float = 0.0
    """Images and their sidecars, in turns; none unless asked for, so that a seed goes on giving the files it gave."""

    def __post_init__(self) -> None:
        weights = (self.dicom, self.csv, self.txt, self.jsonl, self.nifti)
        if min(weights) < 0 or sum(weights) <= 0:
            raise UsageError(f"mixture: expected weights of 0 or more, one above 0, got {weights}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    """What was written."""

    files: int
    corrupt: int
    by_kind: Mapping[str, int]
    by_way: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """A file about to be written: its place, bytes and truths."""

    path: str
    kind: str
    payload: bytes
    truths: Mapping[str, object] = field(default_factory=dict)


def write_corpus(
    folder: Path,
    manifest: Path,
    *,
    seed: int,
    files: int,
    corrupt_fraction: float = 0.02,
    mixture: Mixture | None = None,
    side: int = 64,
) -> CorpusSummary:
    """Write a corpus and its manifest.

    A manifest line holds `version`, `path` (relative, with `/`), `kind`, `corrupt` (the way, or null), `sha256`,
    `bytes`, `secrets` (`kind`, `where`, and `text` or `hex`), and what the kind adds: `notes` with gold for
    TXT and JSONL; `encoding`, `columns`, `exact`, `persons`, `remarks` for CSV; `kept`, `dates`, `text_boxes`,
    `regions`, `references` and `sop_uid` for DICOM; `look` and `voxels_sha256` for NIFTI, `kept` for its SIDECAR.
    The truths of a broken file are those of the sound one.

    Args:
        folder: Where the files go; new or empty.
        manifest: The manifest's path, outside of `folder`.
        seed: The seed.
        files: Number of files.
        corrupt_fraction: Share of broken files, 0 to 1; the count is rounded.
        mixture: Shares of the kinds.
        side: Rows and columns of the images.

    Raises:
        UsageError: The folder is not empty, the manifest lies inside it, or a number is out of range.
    """
    _check(folder, manifest, files=files, corrupt_fraction=corrupt_fraction)
    broken = _broken(seed, files, corrupt_fraction)
    kinds: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="\n") as lines:
        for index, item in enumerate(_items(seed, files, mixture or Mixture(), side=side)):
            payload, way = item.payload, None
            if index in broken:
                suffix = Path(item.path).suffix
                way = tuple(WAYS[suffix])[broken[index] % len(WAYS[suffix])]
                payload = corrupt(np.random.default_rng([seed, 3, index]), payload, suffix=suffix, way=way)
                ways[way] += 1
            kinds[item.kind] += 1
            path = folder / item.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload)
            lines.write(_line(item, payload, way) + "\n")
    return CorpusSummary(files=files, corrupt=len(broken), by_kind=dict(kinds), by_way=dict(ways))


def _check(folder: Path, manifest: Path, *, files: int, corrupt_fraction: float) -> None:
    if files < 1 or not 0 <= corrupt_fraction <= 1:
        raise UsageError(f"corpus: expected 1 file or more and a fraction of 0 to 1, got {files}, {corrupt_fraction}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"corpus: expected a new or empty folder, got {folder.name} with files; choose another")
    if manifest.resolve().is_relative_to(folder.resolve()):
        raise UsageError("corpus: expected the manifest outside of the folder, got it inside; it holds the truths")


def _broken(seed: int, files: int, fraction: float) -> dict[int, int]:
    """Return the indices of the files to break, each with its turn."""
    order = np.random.default_rng([seed, 1]).permutation(files)[: round(files * fraction)]
    return {int(index): turn for turn, index in enumerate(sorted(order.tolist()))}


def _items(seed: int, files: int, mixture: Mixture, *, side: int) -> Iterator[_Item]:
    streams: dict[str, Iterator[_Item]] = {
        "dicom": _dicom(np.random.default_rng([seed, 10]), side=side),
        "csv": _tables(np.random.default_rng([seed, 11])),
        "txt": _texts(np.random.default_rng([seed, 12])),
        "jsonl": _lines(np.random.default_rng([seed, 13])),
        "nifti": _niftis(np.random.default_rng([seed, 14])),
    }
    weights = np.array([mixture.dicom, mixture.csv, mixture.txt, mixture.jsonl, mixture.nifti])
    choices = np.random.default_rng([seed, 2]).choice(len(weights), size=files, p=weights / weights.sum())
    names = tuple(streams)
    for choice in choices.tolist():
        yield next(streams[names[choice]])


def _dicom(rng: Generator, *, side: int) -> Iterator[_Item]:
    for _, phantom in draw_files(rng, side=side):
        facts = phantom.planted
        truths: dict[str, object] = {
            "sop_uid": phantom.sop_uid,
            "secrets": _told(facts.secrets),
            "kept": {item.keyword: item.value for item in facts.kept},
            "dates": {keyword: day.isoformat() for keyword, day in facts.dates},
            "references": facts.references,
            "text_boxes": [(box.left, box.top, box.right, box.bottom) for box in phantom.text_boxes],
            "regions": [(box.left, box.top, box.right, box.bottom) for box in phantom.regions],
        }
        yield _Item(path=f"dicom/{phantom.name}", kind=phantom.kind, payload=phantom.payload, truths=truths)


def _tables(rng: Generator) -> Iterator[_Item]:
    encodings: tuple[Encoding, ...] = ("utf-8", "utf-8-sig", "gb18030")
    serial = 0
    while True:
        serial += 1
        language: Language = "zh" if chance(rng, 0.6) else "en"
        table = draw_table(rng, language, rows=20, encoding=pick(rng, encodings))
        truths: dict[str, object] = {
            "encoding": table.encoding,
            "columns": dict(table.columns),
            "exact": {role: table.cells[role] for role in EXACT},
            "persons": table.person_of_row,
            "remarks": [json.loads(note.json_line()) for note in table.remarks],
            "secrets": _told(table.secrets),
        }
        yield _Item(path=f"tables/t{serial:05d}.csv", kind="CSV", payload=table.payload, truths=truths)


def _texts(rng: Generator) -> Iterator[_Item]:
    for serial, note in enumerate(_notes(rng), start=1):
        encoding = "gb18030" if note.language == "zh" and chance(rng, 0.15) else "utf-8"
        truths: dict[str, object] = {"encoding": encoding, "notes": [json.loads(note.json_line())], "secrets": []}
        yield _Item(path=f"notes/n{serial:05d}.txt", kind="TXT", payload=note.text.encode(encoding), truths=truths)


def _lines(rng: Generator) -> Iterator[_Item]:
    serial = 0
    notes = _notes(rng)
    while True:
        serial += 1
        batch = [next(notes) for _ in range(5)]
        rows = [{"id": f"n{at}", "patient": note.patient, "text": note.text} for at, note in enumerate(batch)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        truths: dict[str, object] = {"notes": [json.loads(note.json_line()) for note in batch], "secrets": []}
        yield _Item(path=f"lines/j{serial:05d}.jsonl", kind="JSONL", payload=text.encode("utf-8"), truths=truths)


def _niftis(rng: Generator) -> Iterator[_Item]:
    serial = 0
    while True:
        serial += 1
        patient = draw_person(rng, "zh" if chance(rng, 0.5) else "en")
        phantom = draw_nifti(rng, patient, name=f"nifti/i{serial:05d}", form=draw_form(rng))
        secrets = _told(phantom.secrets)
        truths: dict[str, object] = {
            "look": phantom.form.look,
            "voxels_sha256": hashlib.sha256(phantom.voxels).hexdigest(),
            "secrets": secrets,
        }
        yield _Item(path=phantom.name, kind="NIFTI", payload=phantom.payload, truths=truths)
        name = f"nifti/i{serial:05d}.json"
        sidecar: dict[str, object] = {"kept": dict(phantom.kept), "secrets": secrets}
        yield _Item(path=name, kind="SIDECAR", payload=phantom.sidecar, truths=sidecar)


def _notes(rng: Generator) -> Iterator[Note]:
    streams = (draw_notes(rng, "zh", sys.maxsize), draw_notes(rng, "en", sys.maxsize))
    while True:
        for stream in streams:
            yield from islice(stream, 40)


def _told(secrets: tuple[Secret, ...]) -> list[dict[str, str]]:
    return [
        {"kind": item.kind, "where": item.where} | ({"hex": item.raw.hex()} if item.raw else {"text": item.text})
        for item in secrets
    ]


def _line(item: _Item, payload: bytes, way: str | None) -> str:
    head = {
        "version": MANIFEST_VERSION,
        "path": item.path,
        "kind": item.kind,
        "corrupt": way,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "bytes": len(payload),
    }
    return json.dumps(head | dict(item.truths), ensure_ascii=False)
