"""A small BERT tagger that the project trains itself on synthetic notes. It is NOT of clinical grade.

Why it exists: the tagger's place in the pipeline can be shown, tested and timed without anybody's model or notes.
It learns the templates that it is shown; on real notes it finds what resembles them and little else.

Rules:
    * Characters for Chinese; words for English, with their characters as the way out for words not seen.
      Vocabulary and weights come from the given notes and the seed alone; nothing is downloaded.
    * What is written is what `tagger` loads: safetensors, a fast tokenizer, and a model card that says all this.
    * The folder remembers its notes in its vocabulary and weights: train on synthetic notes only.

What it does not do: measure (see `evaluation`), or train with privacy.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from fedmed.deid.text.gold import GoldNote, read_gold
from fedmed.deid.text.reading import read
from fedmed.deid.text.spans import KINDS
from fedmed.deid.text.tagger import one_thread, quietly
from fedmed.errors import DataError
from fedmed.files import write_atomic

SPECIAL = PAD, UNKNOWN, START, END = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MAX_TOKENS = 256
BATCH_NOTES = 8
MIN_WORD_COUNT = 3
LEARNING_RATE = 1e-3
LABELS = ("O", *(f"{position}-{kind}" for kind in KINDS for position in "BI"))

_CARD = """---
library_name: transformers
pipeline_tag: token-classification
---

# A demonstration tagger for clinical notes

**This model is not of clinical grade and must not be relied on to protect anybody.** It is a BERT of {parameters:,}
parameters with random beginnings, trained for {steps} steps on {notes} synthetic notes. It has seen no real note. What
it learnt are the templates and names of its generator; on real notes its recall is unknown and certainly low. It is one
voice beside rules, to show where a tagger plugs in.

| fact | value |
|---|---|
| training notes | {notes}, SHA-256 of the file {digest} |
| steps, seed | {steps}, {seed} |
| loss in the last step | {loss:.4f} |
| labels | {labels} |
| longest input | {window} tokens |

Its vocabulary is made of the training notes: train it on synthetic notes only.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTagger:
    """What was trained; the folder holds the model."""

    notes: int
    parameters: int
    vocabulary: int
    steps: int
    seed: int
    loss: float


def train_tagger(notes: Path, out: Path, *, seed: int, steps: int, hidden: int = 128, layers: int = 2) -> TrainedTagger:
    """Train a small tagger on the synthetic gold notes of `notes` and save it to `out`. Not of clinical grade.

    Guarantees: the global random state is left as it was.

    Args:
        notes: JSON lines (see `gold`), of synthetic notes.
        out: The folder to write; created if absent.
        seed: Decides the first weights and the order of the notes.
        steps: Steps of AdamW, on `BATCH_NOTES` pieces each.
        hidden: Width; a multiple of 32.
        layers: Depth.

    Raises:
        DataError: There are no notes, or a line is wrong.
    """
    gold = [note for _, note in read_gold(notes)]
    if not gold:
        raise DataError(f"{notes.name}: no notes; expected at least one gold note to train on")
    tokenizer = build_tokenizer(gold)
    pieces = [piece for note in gold for piece in _pieces(tokenizer, note)]
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        model = BertForTokenClassification(_config(len(tokenizer), hidden=hidden, layers=layers))
        loss = _fit(model, pieces, steps=steps)
    trained = TrainedTagger(
        notes=len(gold), parameters=sum(weights.numel() for weights in model.parameters()), vocabulary=len(tokenizer),
        steps=steps, seed=seed, loss=loss,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    model.train(mode=False)
    with quietly():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    card = _CARD.format(
        parameters=trained.parameters, steps=steps, notes=len(gold), seed=seed, loss=loss, labels=", ".join(KINDS),
        digest=hashlib.sha256(notes.read_bytes()).hexdigest(), window=MAX_TOKENS,
    )  # fmt: skip
    write_atomic(out / "README.md", card.encode(), mode=0o644)
    return trained


def build_tokenizer(notes: Sequence[GoldNote]) -> PreTrainedTokenizerFast:
    """Return a cased WordPiece tokenizer: every character of the notes alone and inside a word, and frequent words."""
    split = BertPreTokenizer()
    normaliser = BertNormalizer(lowercase=False, strip_accents=False)
    counts: Counter[str] = Counter()
    for note in notes:
        counts.update(word for word, _ in split.pre_tokenize_str(normaliser.normalize_str(read(note.text).view)))
    characters = sorted({character for word in counts for character in word})
    words = sorted(word for word, count in counts.items() if len(word) > 1 and count >= MIN_WORD_COUNT)
    entries = [*SPECIAL, *characters, *(f"##{character}" for character in characters), *words]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, vocabulary[token]) for token in (START, END)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, pad_token=PAD, unk_token=UNKNOWN,
        cls_token=START, sep_token=END,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """At most `MAX_TOKENS` tokens of a note, and the label of each; -100 for those that have none."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]


def _pieces(tokenizer: PreTrainedTokenizerFast, note: GoldNote) -> Iterator[_Piece]:
    reading = read(note.text)
    encoded = tokenizer(
        reading.view, truncation=True, max_length=MAX_TOKENS, stride=32, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    spans = sorted((entity.start, entity.end, entity.kind) for entity in note.entities)
    origins = reading.origins
    for tokens, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        labels = []
        for start, end in offsets:
            if start == end:
                labels.append(-100)
                continue
            at = origins[start] if origins is not None else start
            inside = next((span for span in spans if span[0] <= at < span[1]), None)
            name = "O" if inside is None else f"{'B' if at == inside[0] else 'I'}-{inside[2]}"
            labels.append(LABELS.index(name))
        yield _Piece(tokens=tuple(tokens), labels=tuple(labels))


def _config(vocabulary: int, *, hidden: int, layers: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=2 * hidden, max_position_embeddings=MAX_TOKENS, type_vocab_size=1, pad_token_id=0,
        id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)},
    )  # fmt: skip


def _fit(model: BertForTokenClassification, pieces: Sequence[_Piece], *, steps: int) -> float:
    """Train in place and return the loss of the last step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))),
    )
    model.train()
    loss = math.nan
    order: list[int] = []
    for _ in range(steps):
        if len(order) < BATCH_NOTES:
            order += torch.randperm(len(pieces)).tolist()
        batch, order = [pieces[index] for index in order[:BATCH_NOTES]], order[BATCH_NOTES:]
        width = max(len(piece.tokens) for piece in batch)
        tokens = torch.tensor([[*piece.tokens, *[0] * (width - len(piece.tokens))] for piece in batch])
        labels = torch.tensor([[*piece.labels, *[-100] * (width - len(piece.labels))] for piece in batch])
        output = model(input_ids=tokens, attention_mask=(tokens != 0).long(), labels=labels)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        loss = float(output.loss.detach())
    return loss
