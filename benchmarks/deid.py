"""How much de-identification finds, how much it takes away, and what it costs, beside other tools in one run.

Why it exists: recall and speed are promised in numbers; whoever doubts them runs this on their machine.

Run from the repository: `python benchmarks/deid.py [--quick] [--json PATH] [--seed N]`.

Rules:
    * All times are CPU time of this process; every tool gets the same bytes, and reading and writing them counts.
    * Files, rows and notes come from the project's generator (`fedmed_sim.phantoms`), which does not know the rules;
      what was planted is searched in the raw bytes of each output.
    * A peer that is not installed, or fails, is a row with the reason; none is a dependency of the project.
    * A peer runs with its defaults. What they were not made for (nested canaries, Chinese) is shown all the same.

What it does not do: measure on real notes, or judge a tool by more than these figures.
"""

import argparse
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom

from fedmed.deid.dicom.files import clean_bytes, site_keys
from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.text import CleanedNote, NoteCleaner, Span, TextOptions
from fedmed.deid.text.evaluation import Evaluation, evaluate
from fedmed.deid.text.gold import GoldNote
from fedmed.deid.text.spans import merge
from fedmed_sim.phantoms.dicom import draw_files
from fedmed_sim.phantoms.dicom_frame import Phantom, searchable
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.notes import write_gold
from fedmed_site.deidentification_columns import ColumnDecision, Columns
from fedmed_site.deidentification_formats import Engines
from fedmed_site.deidentification_policy import load_choices

KEY: Final = bytes(range(32))
KINDS: Final = ("CT", "MR", "DX", "SR", "PR", "RTSTRUCT")
CT_SIDE: Final = 512
PRESIDIO_MODELS: Final = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")

Tool = Callable[[bytes], bytes | None]
"""The bytes of a DICOM file in, those of the cleaned one out, or None where it is set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFigures:
    """One tool on the same files. `skipped` is the reason why there are no figures.

    `leaks`: planted identifiers (dates apart, which some tools move) in the outputs; `leaking_files`: files with any.
    """

    tool: str
    skipped: str = ""
    files: int = 0
    set_aside: int = 0
    failed: int = 0
    leaks: int = 0
    planted: int = 0
    leaking_files: int = 0
    ct_files_per_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFigures:
    """One tool on the same notes; recall is by entity, over-masking by decoy and by character."""

    tool: str
    language: str
    skipped: str = ""
    notes: int = 0
    characters: int = 0
    notes_per_cpu_s: float = 0.0
    recall: dict[str, float] | None = None
    decoys_masked: float = 0.0
    others_masked: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFigures:
    """The whole pipeline from a CSV file to a Parquet file with k = 5."""

    rows: int
    kept: int
    rows_per_cpu_s: float


# --- DICOM ----------------------------------------------------------------------------------------------------


def fedmed_dicom() -> Tool:
    """Return this project's engine."""
    keyed = site_keys(DicomOptions(), KEY)

    def clean(data: bytes) -> bytes | None:
        try:
            return clean_bytes(data, keyed).data
        except QuarantineError:
            return None

    return clean


def dicom_anonymizer() -> Tool:
    """Return dicom-anonymizer with its default rules.

    Raises:
        ImportError: It is not installed.
    """
    anonymize = importlib.import_module("dicomanonymizer.simpledicomanonymizer").anonymize_dataset
    return _on_datasets(anonymize)


def dicognito() -> Tool:
    """Return dicognito with its defaults.

    Raises:
        ImportError: It is not installed.
    """
    return _on_datasets(importlib.import_module("dicognito.anonymizer").Anonymizer(seed="benchmark").anonymize)


def _on_datasets(change: Callable[[pydicom.Dataset], object]) -> Tool:
    def clean(data: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(data))
        change(dataset)
        out = io.BytesIO()
        dataset.save_as(out)
        return out.getvalue()

    return clean


DICOM_TOOLS: Final[dict[str, Callable[[], Tool]]] = {
    "fedmed": fedmed_dicom,
    "dicom-anonymizer": dicom_anonymizer,
    "dicognito": dicognito,
}


def measure_dicom(tool: str, mixed: Sequence[Phantom], scans: Sequence[bytes]) -> DicomFigures:
    """Return the leaks of one tool on mixed files, and its speed on CT slices."""
    try:
        clean = DICOM_TOOLS[tool]()
    except ImportError as error:
        return DicomFigures(tool=tool, skipped=f"not installed ({error.name})")
    aside = failed = leaks = planted = leaking = 0
    for phantom in mixed:
        try:
            out = clean(phantom.payload)
        except Exception:  # noqa: BLE001  a peer's failure is a figure
            failed += 1
            continue
        if out is None:
            aside += 1
            continue
        found = phantom.planted.leaks(searchable(out), but=frozenset({"DATE"}))
        planted += sum(secret.kind != "DATE" for secret in phantom.planted.secrets)
        leaks += len(found)
        leaking += bool(found)
    clean(scans[0])  # warm
    start = time.process_time()
    for data in scans:
        clean(data)
    speed = len(scans) / (time.process_time() - start)
    return DicomFigures(
        tool=_named(tool), files=len(mixed), set_aside=aside, failed=failed, leaks=leaks, planted=planted,
        leaking_files=leaking, ct_files_per_cpu_s=speed,
    )  # fmt: skip


# --- text -----------------------------------------------------------------------------------------------------


def fedmed_text() -> Callable[[GoldNote], CleanedNote]:
    """Return this project's rules, without a tagger."""
    cleaner = NoteCleaner(options=TextOptions(), key=KEY)
    return lambda note: cleaner.clean(note.text, patient=note.patient)


def presidio_text() -> Callable[[GoldNote], CleanedNote]:
    """Return Presidio's analyser with its recognisers and the best English spaCy model that is installed.

    Raises:
        ImportError: Presidio or every such model is missing.
    """
    analyser = importlib.import_module("presidio_analyzer")
    engines = importlib.import_module("presidio_analyzer.nlp_engine")
    suffixes: Any = importlib.import_module("tldextract")
    suffixes.extract = suffixes.TLDExtract(suffix_list_urls=())  # the list that it ships, not the network's
    model = spacy_model()
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": model}]}
    engine = analyser.AnalyzerEngine(
        nlp_engine=engines.NlpEngineProvider(nlp_configuration=configuration).create_engine()
    )

    def clean(note: GoldNote) -> CleanedNote:
        found = engine.analyze(text=note.text, language="en")
        spans = merge(Span(start=one.start, end=one.end, kind="NAME") for one in found if one.end > one.start)
        return CleanedNote(text="", counts={}, spans=tuple(spans))

    return clean


def spacy_model() -> str:
    """Return the name of the largest English spaCy model that is installed.

    Raises:
        ImportError: There is none.
    """
    installed = importlib.import_module("spacy").util.get_installed_models()
    model = next((found for name in PRESIDIO_MODELS for found in installed if found.startswith(name)), None)
    if model is None:
        raise ImportError("no English spaCy model", name="en_core_web_*")
    return str(model)


TEXT_TOOLS: Final[dict[str, Callable[[], Callable[[GoldNote], CleanedNote]]]] = {
    "fedmed": fedmed_text,
    "presidio-analyzer": presidio_text,
}


def measure_text(tool: str, language: Language, gold: Path) -> TextFigures:
    """Return recall, over-masking and speed of one tool on a gold file."""
    try:
        clean = TEXT_TOOLS[tool]()
    except ImportError as error:
        return TextFigures(tool=tool, language=language, skipped=f"not installed ({error.name})")
    spent = characters = 0.0

    def timed(note: GoldNote) -> CleanedNote:
        nonlocal spent, characters
        start = time.process_time()
        cleaned = clean(note)
        spent += time.process_time() - start
        characters += len(note.text)
        return cleaned

    result: Evaluation = evaluate(gold, timed)
    return TextFigures(
        tool=_named(tool) if tool == "fedmed" else f"{_named(tool)} with {spacy_model()}",
        language=language, notes=result.notes, characters=int(characters),
        notes_per_cpu_s=result.notes / spent,
        recall={kind: recall.by_entity for kind, recall in result.recall.items()},
        decoys_masked=result.decoy_rate, others_masked=result.other_rate,
    )  # fmt: skip


# --- tables ---------------------------------------------------------------------------------------------------

_DECISIONS: Final = (
    ColumnDecision(name="record", role="patient-key", kind="identifier"),
    ColumnDecision(name="name", role="direct-identifier", kind="text"),
    ColumnDecision(name="age", role="quasi-identifier", kind="number", hierarchy="age", unit="years", low=0, high=130),
    ColumnDecision(name="admitted", role="quasi-identifier", kind="date", hierarchy="date"),
    ColumnDecision(name="diagnosis", role="sensitive", kind="icd10"),
    ColumnDecision(name="crp", role="feature", kind="number", low=0, high=500),
)


def measure_table(rows: int, seed: int, folder: Path) -> TableFigures:
    """Return the speed of the table pipeline under the policy `research-longitudinal`."""
    rng = np.random.default_rng(seed)
    source = folder / "table.csv"
    with source.open("w", encoding="utf-8") as file:
        file.write(",".join(decision.name for decision in _DECISIONS) + "\n")
        ages, days = rng.integers(18, 89, rows), rng.integers(0, 365, rows)
        for number, (age, day) in enumerate(zip(ages.tolist(), days.tolist(), strict=True)):
            admitted = np.datetime64("2023-01-01") + day
            file.write(f"R{number:07d},Person {number},{age},{admitted},{'J18.9' if number % 3 else 'I10'},{day}\n")
    engines = Engines(load_choices("research-longitudinal"), Columns(columns=_DECISIONS), key=KEY)
    work = folder / "work"
    work.mkdir()
    start = time.process_time()
    output = engines.clean(source, "table", item="0" * 32, work=work, seal=None)
    spent = time.process_time() - start
    return TableFigures(rows=rows, kept=int(str(output.facts["rows_kept"])), rows_per_cpu_s=rows / spent)


# --- the whole run --------------------------------------------------------------------------------------------


def measure(*, quick: bool, seed: int) -> dict[str, Any]:
    """Return all figures, as JSON takes them."""
    mixed_files, scans, notes, rows = (30, 10, 100, 20_000) if quick else (300, 100, 1500, 200_000)
    rng = np.random.default_rng(seed)
    mixed = [phantom for _, phantom in _first(draw_files(rng, kinds=KINDS), mixed_files)]
    slices = draw_files(np.random.default_rng(seed + 1), kinds=("CT",), images=10, side=CT_SIDE)
    ct = [phantom.payload for _, phantom in _first(slices, scans)]
    results: dict[str, Any] = {"seed": seed, "quick": quick, "machine": f"{os.cpu_count()} cores, {sys.platform}"}
    results["dicom"] = [asdict(measure_dicom(tool, mixed, ct)) for tool in DICOM_TOOLS]
    text: list[TextFigures] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for language, tools in LANGUAGES.items():
            gold = folder / f"{language}.jsonl"
            write_gold(gold, np.random.default_rng(seed), languages=(language,), count=notes)
            text += [measure_text(tool, language, gold) for tool in tools]
        results["text"] = [asdict(figures) for figures in text]
        results["table"] = asdict(measure_table(rows, seed, folder))
    return results


LANGUAGES: Final[dict[Language, tuple[str, ...]]] = {"en": tuple(TEXT_TOOLS), "zh": ("fedmed",)}
"""Presidio has no default recognisers for Chinese."""


def _first(items: Iterator[Any], count: int) -> Iterator[Any]:
    return (item for item, _ in zip(items, range(count), strict=False))


def _named(tool: str) -> str:
    return f"{tool} {version(tool)}"


def shown(results: dict[str, Any]) -> str:
    """Return the figures as lines for people."""
    table = results["table"]
    kept = f"{table['kept']:,} of {table['rows']:,} kept"
    rows = f"  {_named('fedmed')}: {table['rows_per_cpu_s']:,.0f} rows per CPU second, {kept}"
    dicom, text = map(_dicom_line, results["dicom"]), map(_text_line, results["text"])
    return "\n".join(["DICOM", *dicom, "Notes", *text, "Tables", rows])


def _dicom_line(one: dict[str, Any]) -> str:
    if one["skipped"]:
        return f"  {one['tool']}: skipped, {one['skipped']}"
    return (
        f"  {one['tool']}: {one['leaks']} of {one['planted']} planted identifiers left, in {one['leaking_files']} of "
        f"{one['files']} files ({one['set_aside']} set aside, {one['failed']} failed); "
        f"{one['ct_files_per_cpu_s']:.1f} CT files of {CT_SIDE} x {CT_SIDE} per CPU second"
    )


def _text_line(one: dict[str, Any]) -> str:
    if one["skipped"]:
        return f"  {one['tool']}, {one['language']}: skipped, {one['skipped']}"
    recall = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in one["recall"].items())
    return (
        f"  {one['tool']}, {one['language']}: {one['notes_per_cpu_s']:.0f} notes per CPU second, of {one['notes']} "
        f"with {one['characters']:,} characters; % found: {recall}; "
        f"% masked of decoys {100 * one['decoys_masked']:.2f}, "
        f"of other characters {100 * one['others_masked']:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer files, rows and notes; under a minute")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here")
    parser.add_argument("--seed", type=int, default=2026, metavar="N", help="of the generator (default: 2026)")
    parsed = parser.parse_args(arguments)
    results = measure(quick=parsed.quick, seed=parsed.seed)
    sys.stdout.write(shown(results) + "\n")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
