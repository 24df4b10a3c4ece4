"""Records with notes: what has no label or nothing to read is left out and counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmed.audit import ChainLog
from fedmed.data.schema import Column, Schema, SplitRule, Target, TextPart
from fedmed.data.source import View
from fedmed.data.tabular import TabularSource
from fedmed.deid import DeidPolicy, deidentify_table
from fedmed.errors import DataError
from fedmed.rows import row_texts

SCHEMA = Schema(
    name="notes",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="note", kind="text", role="free-text"),
        Column(name="ward", kind="category", role="target", values=("a", "b", "c", "d")),
    ),
    targets=(Target(name="ward", column="ward", one_of=("a", "b", "c"), classes=("A", "B", "C")),),
    text=TextPart(column="note", characters=12),
)
VIEW = View(target="ward")
ROWS = ("p1,ankle,a", "p2,心脏,b", "p3,head,c", "p4,odd,d", "p5,,a", "p6,none,", *(f"q{i},x {i},b" for i in range(9)))


def source(folder: Path, *rows: str, schema: Schema = SCHEMA, policy: DeidPolicy | None = None) -> TabularSource:
    """De-identify rows, notes in capitals, and open the table."""
    (folder / "raw.csv").write_text("\n".join(("id,note,ward", *rows)) + "\n")
    log = ChainLog(folder / "audit.jsonl")
    deidentify_table(
        folder / "raw.csv", schema=schema, policy=policy or DeidPolicy(free_text="clean"), key=bytes(32),
        out_dir=folder / "deid", log=log, clean=lambda text, patient: text.upper(),  # noqa: ARG005
    )  # fmt: skip
    return TabularSource(
        folder / "deid", schema=schema, split=SplitRule(kind="hash", test_fraction=0.3), log=log, site="north"
    )


def test_a_note_stands_in_the_row_as_it_was_cleaned(tmp_path: Path):
    """Character by character; the model that will read it doesn't matter."""
    opened = source(tmp_path, *ROWS)
    cohorts = [opened.load(VIEW, split) for split in ("train", "test")]  # type: ignore[arg-type]
    texts = [text for cohort in cohorts for text in row_texts(cohort.features)]
    assert {"ANKLE", "心脏", "HEAD"} <= set(texts)
    assert cohorts[0].features.shape[1] == len(opened.features) == len(cohorts[0].feature_names) == 12


def test_what_has_no_label_or_no_note_is_skipped_and_counted(tmp_path: Path):
    """A class that the target lacks, a missing label, and an empty note; each stays out of both splits."""
    opened = source(tmp_path, *ROWS)
    used = sum(len(opened.load(VIEW, split)) for split in ("train", "test"))  # type: ignore[arg-type]
    assert opened.skipped(VIEW) == 3
    assert used == len(ROWS) - 3


def test_a_table_whose_notes_were_dropped_is_refused(tmp_path: Path):
    """The message says what to do."""
    with pytest.raises(DataError, match=r"expected the text column 'note'.*free_text clean"):
        source(tmp_path, *ROWS, policy=DeidPolicy())


def test_a_site_with_one_class_is_one_line(tmp_path: Path):
    """It is named, and may be left out."""
    with pytest.raises(DataError, match=r"site north.*same label"):
        source(tmp_path, "p1,x,a", "p2,y,a").load(VIEW, "train")


def test_a_site_without_a_usable_record_is_one_line(tmp_path: Path):
    """Nothing to read is nobody to train on."""
    with pytest.raises(DataError, match="no patients"):
        source(tmp_path, "p1,,a", "p2,,b").load(VIEW, "train")


def test_features_of_a_table_stand_behind_the_note(tmp_path: Path):
    """A record with features is used without a note."""
    age = Column(name="ward2", kind="binary", role="feature", values=("0", "1"))
    schema = replace(SCHEMA, columns=(*SCHEMA.columns, age))
    (tmp_path / "raw.csv").write_text("id,note,ward,ward2\np1,,a,1\np2,x,b,0\n")
    log = ChainLog(tmp_path / "audit.jsonl")
    deidentify_table(
        tmp_path / "raw.csv", schema=schema, policy=DeidPolicy(free_text="clean"), key=bytes(32),
        out_dir=tmp_path / "deid", log=log, clean=lambda text, patient: text,  # noqa: ARG005
    )  # fmt: skip
    opened = TabularSource(
        tmp_path / "deid", schema=schema, split=SplitRule(kind="hash", test_fraction=0.3), log=log, site="north"
    )
    both = np.concatenate([opened.load(VIEW, "train").features, opened.load(VIEW, "test").features])
    assert sorted(both[:, -1].tolist()) == [-1.0, 1.0]
    assert opened.features[-1] == "ward2"
    assert opened.features[0] == "character 0"


@pytest.mark.parametrize("role", ["feature", "free-text"])
def test_a_text_part_names_a_free_text_column(role: str):
    """Anything else would pass the door as something that it is not."""
    with pytest.raises(ValueError, match=r"text.column must name a column with role free-text"):
        replace(SCHEMA, text=TextPart(column="ward" if role == "feature" else "nothing", characters=5))
