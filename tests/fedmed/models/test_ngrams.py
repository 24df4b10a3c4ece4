"""Hashed n-grams: equal texts have equal features on every machine, and no vocabulary is learnt from patients."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.models import Architecture, build_module, folder_digest, load_module, state_digest
from fedmed.models.ngrams import hashed
from fedmed.records import ModelSpec
from fedmed.rows import text_rows

SPEC = ModelSpec(family="ngrams", adapter="full", characters=64, width=4)
SCHEMA = Schema(
    name="tiny",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="note", kind="text", role="free-text"),
        Column(name="ill", kind="binary", role="target", values=("0", "1")),
    ),
    targets=(Target(name="ill", column="ill", one_of=("1",)),),
    text=TextPart(column="note", characters=64),
)


def features(*texts: str, buckets: int = 4096) -> torch.Tensor:
    """Return the features of texts."""
    return hashed(torch.from_numpy(text_rows(texts, characters=64)), buckets=buckets)


WORDS = {
    "en": (["ankle", "knee", "hip"], ["atrium", "valve", "aorta"]),
    "zh": (["踝关节", "膝盖", "髋部"], ["心房", "瓣膜", "主动脉"]),
}


def reference(text: str) -> set[str]:
    """Return the n-grams of a text, written down plainly."""
    text = text.lower()
    grams = {f"c{text[i : i + n]}" for n in (2, 3, 4) for i in range(len(text) - n + 1)}
    words: list[str] = []
    for ideograph, run in itertools.groupby(text, key=lambda c: (c >= "\u3400") + 2 * (c.isalnum() and c < "\u3400")):
        run_text = "".join(run)
        words += list(run_text) if ideograph == 1 else [run_text] if ideograph == 2 else []
    return grams | {f"w{word}" for word in words} | {f"p{a} {b}" for a, b in itertools.pairwise(words)}


@pytest.mark.parametrize(
    "text", ["the quick brown fox", "a", "ab ab ab", "BP 120/80, HR 72.", "心电图正常 ECG ok", "x  y"]
)
def test_features_are_the_n_grams_and_nothing_else(text: str):
    """As many buckets are filled as there are different n-grams, with so many that hardly two share one."""
    found = int((features(text, buckets=1 << 20) > 0).sum())
    assert found == len(reference(text))


def test_features_are_the_same_on_every_machine():
    """A hash is fixed: these places were computed once, and a model folder depends on them."""
    places = features("fever 38, 咳嗽", buckets=1 << 16)[0].nonzero().flatten()
    assert len(places) == len(reference("fever 38, 咳嗽"))
    assert int(places.sum()) == 1033003


def test_case_and_width_of_letters_do_not_count():
    """FEVER, fever and full-width ＦＥＶＥＲ are one word; so are Ä and ä."""
    one, two, three = features("FEVER Ä", "fever ä", "ＦＥＶＥＲ ä")
    assert torch.equal(one, two)
    assert torch.equal(two, three)


def test_where_a_word_stands_does_not_count_for_it():
    """The word has one bucket, wherever in the note it is."""
    grid = features("fever", "aa bb fever", "fever cc", buckets=1 << 20)
    shared = (grid[0] > 0) & (grid[1] > 0) & (grid[2] > 0)
    assert int(shared.sum()) == len(reference("fever"))


def test_a_note_has_length_one_and_a_missing_one_none():
    """No record weighs more for being long, and an empty one says nothing."""
    lengths = torch.linalg.vector_norm(features("a b", "a much longer note about a knee", ""), dim=1)
    assert torch.allclose(lengths, torch.tensor([1.0, 1.0, 0.0]))


def test_a_note_alone_has_the_features_that_it_has_in_a_batch():
    """Nothing couples records."""
    texts = ("knee pain", "头痛 三天", "")
    assert torch.equal(features(*texts), torch.cat([features(text) for text in texts]))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_features_tell_notes_apart(language: str):
    """Logistic regression on them tells two topics apart on notes that it has not seen."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    texts = [f"{rng.choice(WORDS[language][k])} {rng.integers(100)} {rng.choice(WORDS[language][k])}" for k in labels]
    values = features(*texts, buckets=1024).numpy()
    model = LogisticRegression().fit(values[:100], labels[:100])
    assert model.score(values[100:], labels[100:]) >= 0.97


def test_two_private_rounds(clinics: Any, some_notes: Any, tmp_path: Path):
    """Sites without a graphics card or a model folder train on notes, and the released model knows the word."""
    tables = [
        ["id,note,ill", *(f"p{i},{text},{label}" for i, (text, label) in enumerate(some_notes(80, seed=seed)))]
        for seed in range(3)
    ]
    sites = clinics(SCHEMA, tables)
    plan = sites.plan(SPEC, features=64)
    result = sites.train(plan, tmp_path / "state")
    architecture, module = load_module(result / "model", expected_digest=folder_digest(result / "model"))
    assert architecture == Architecture.of(SPEC, features=64, classes=2)
    assert state_digest(module) != state_digest(build_module(architecture, seed=5))
