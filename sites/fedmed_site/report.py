"""The report of a de-identified folder: for a privacy officer as a page, for a machine as JSON, from one record.

Why it exists: what was done to the files must be readable by who answers for them, without the tool.

Rules:
    * Page and JSON hold the same facts, and both come from audit records: rules, counts, keyed names, digests.
    * No path of the source, no value of a file, no key.
    * What de-identification does not promise stands on the page.

What it does not do: leave the site by itself; counts are facts about patients.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

import fedmed
from fedmed.files import write_atomic
from fedmed_site.deidentification import Result
from fedmed_site.deidentification_formats import REASONS
from fedmed_site.deidentification_policy import Choices, described
from fedmed_site.manifest import REPORT_HTML, REPORT_JSON, ItemRecord

REPORT_VERSION = 1
MOST_SHOWN = 500
KIND_NAMES = {
    "dicom": "DICOM files",
    "nifti": "NIfTI images",
    "sidecar": "sidecars of NIfTI images (JSON)",
    "table": "tables",
    "note": "notes (TXT)",
    "notes": "files of notes (JSONL)",
    "other": "others",
}
_ACTIONS = {
    "actions": "DICOM elements, by what was done",
    "nifti": "NIfTI: what was left out",
    "sidecar": "Sidecars: keys",
    "masked": "Notes: places masked or shifted, by kind",
    "cells": "Tables: cells, by what was done",
    "rows": "Tables: rows",
}

_LEFT_OUT = {
    "lines of notes": ("lines_left_out",),
    "rows of tables": ("rows_quarantined", "rows_incomplete", "anonymity.rows_suppressed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The facts of a folder. `kinds` and `actions` are counts; `left_out` is what cleaned files lack of their sources.

    `quarantine` is reason, meaning and keyed names.
    """

    site: str
    batch: str
    policy: str
    policy_in_words: Mapping[str, str]
    form: str
    names: str
    items: int
    cleaned: int
    quarantined: int
    this_run_done: int
    this_run_skipped: int
    kinds: Mapping[str, Mapping[str, int]]
    actions: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]
    quarantine: Mapping[str, tuple[str, ...]]
    meanings: Mapping[str, str]
    options_digest: str
    dicom_table_digest: str
    manifest_sha256: str
    key_ids: tuple[str, ...]
    data_key_ids: tuple[str, ...]
    tool_version: str
    version: int = REPORT_VERSION


def report_of(result: Result, choices: Choices, *, site: str) -> Report:
    """Return the report of a run over a folder."""
    records = tuple(result.records.values())
    quarantine: dict[str, tuple[str, ...]] = {
        reason: tuple(one.item for one in records if one.reason == reason) for reason in result.quarantined
    }
    return Report(
        site=site,
        batch=result.batch.batch,
        policy=choices.profile,
        policy_in_words=described(choices),
        form=result.batch.form,
        names=result.batch.names,
        items=len(records),
        cleaned=result.cleaned,
        quarantined=len(records) - result.cleaned,
        this_run_done=result.fresh,
        this_run_skipped=result.skipped,
        kinds=_kinds(records),
        actions=_actions(records),
        left_out=_left_out(records),
        quarantine=quarantine,
        meanings={reason: REASONS.get(reason, "") for reason in quarantine},
        options_digest=result.options_digest,
        dicom_table_digest=result.table_digest,
        manifest_sha256=result.manifest_sha256,
        key_ids=tuple(sorted({one.key_id for one in records})),
        data_key_ids=tuple(sorted({one.data_key_id for one in records} - {""})),
        tool_version=fedmed.__version__,
    )


def write_report(report: Report, out: Path) -> None:
    """Write `report.json` and `report.html` into the folder, each whole."""
    write_atomic(out / REPORT_JSON, report_json(report))
    write_atomic(
        out / REPORT_HTML, render("report.html.j2", report=report, most_shown=MOST_SHOWN, kind_names=KIND_NAMES)
    )


def report_json(report: Report) -> bytes:
    """Return a report as JSON for machines."""
    plain = {"format": "fedmed-deidentification-report", **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=2) + b"\n"


def render(template: str, **facts: object) -> bytes:
    """Return a page of this package with every value escaped."""
    environment = Environment(
        loader=PackageLoader("fedmed_site"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**facts).encode()


def _kinds(records: tuple[ItemRecord, ...]) -> dict[str, dict[str, int]]:
    counts: Counter[tuple[str, str]] = Counter((one.kind, one.outcome) for one in records)
    return {
        kind: {outcome: counts[kind, outcome] for outcome in ("cleaned", "quarantined")}
        for kind in KIND_NAMES
        if any(found == kind for found, _ in counts)
    }


def _left_out(records: tuple[ItemRecord, ...]) -> dict[str, int]:
    """Return how many lines and rows of cleaned files did not come out, where there are any."""
    counts: Counter[str] = Counter()
    for record in records:
        for what, names in _LEFT_OUT.items():
            counts[what] += sum(int(record.facts.get(name) or 0) for name in names)
    return {what: counts[what] for what in _LEFT_OUT if counts[what]}


def _actions(records: tuple[ItemRecord, ...]) -> dict[str, dict[str, int]]:
    """Return the counts of all cleaned items together, by group."""
    groups: dict[str, Counter[str]] = {title: Counter() for title in _ACTIONS.values()}
    for record in records:
        for name, value in record.facts.items():
            group, _, action = name.replace("rows_", "rows.", 1).partition(".")
            if group in _ACTIONS and action and isinstance(value, int):
                groups[_ACTIONS[group]][action] += value
    return {title: dict(counts.most_common()) for title, counts in groups.items() if counts.total()}
