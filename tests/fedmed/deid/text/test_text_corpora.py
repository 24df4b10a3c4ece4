"""Over-masking on real clinical text from which names were removed before it was published."""

import csv
import gzip
from pathlib import Path

import pytest

from fedmed.deid.text import NoteCleaner

DATA = Path(__file__).parents[5] / "shared" / "data"
REPORTS = DATA / "mtsamples" / "clean_specialty.csv.gz"
CRITERIA = DATA / "trial-criteria-zh" / "train.txt.gz"


def masked_share(cleaner: NoteCleaner, notes: list[str]) -> float:
    """Return the share of characters that is masked; dates count, they are real there."""
    spans = sum(span.end - span.start for note in notes for span in cleaner.clean(note, patient="p").spans)
    return spans / sum(map(len, notes))


@pytest.mark.skipif(not REPORTS.exists(), reason="needs ../shared/data/mtsamples")
def test_english_reports_keep_their_words(cleaner: NoteCleaner) -> None:
    """Of transcribed reports at most one character in a hundred is masked."""
    csv.field_size_limit(1 << 24)
    with gzip.open(REPORTS, "rt", encoding="utf-8") as file:
        notes = [row["transcription"] for row in csv.DictReader(file)][::12]
    assert masked_share(cleaner, notes) <= 0.01


@pytest.mark.skipif(not CRITERIA.exists(), reason="needs ../shared/data/trial-criteria-zh")
def test_chinese_criteria_keep_their_words(cleaner: NoteCleaner) -> None:
    """Of trial criteria at most one character in a hundred is masked."""
    with gzip.open(CRITERIA, "rt", encoding="utf-8") as file:
        notes = [line.rstrip("\n").partition("\t")[2] for line in file][::4]
    assert masked_share(cleaner, notes) <= 0.01
