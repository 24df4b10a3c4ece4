"""Causal language models: they choose among answers, or learn the answers that conversations hold.

Why it exists: a hospital's questions are often instructions with answers, not classes.

Rules:
    * One record is one conversation. Its loss is the mean over its own answer's tokens, so that no record's weight
      depends on the lengths of others (the sum over a batch's tokens would couple them).
    * Texts are padded on the left, so every answer ends in the last place; positions count from a text's first token.
      Only the places of answers get logits: a vocabulary is wide. Nothing is packed: two patients in one sequence
      would see each other.
    * Too long a text is cut, never its answer: of a question the text inside the prompt, of a conversation its oldest
      part.
    * A conversation whose turns the folder's template refuses is told in turns that it takes: one record's form never
      ends a study.
    * With `answers`, the outputs are the logits of the first token of each answer after the prompt. Without, they are
      the loss and whether every token of the answer, and its end, would have been chosen first: exactly when greedy
      decoding gives the answer word for word.

What it does not do: sample text.
Source: chat templates are the folder's own, rendered by transformers in a sandbox.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from fedmed.errors import ModelError
from fedmed.models.architecture import Architecture
from fedmed.models.pretrained import attention_targets, load_pretrained, load_tokenizer
from fedmed.models.reading import ReadingModel
from fedmed.models.text import Tokens, tokens_of
from fedmed.rows import row_texts, turns_of

_UNSEEN = -100
_LEAST_TEXT = 8
"""Tokens that a prompt must leave for a text."""
_TRIED = "fever"


@dataclass(frozen=True, slots=True)
class ChoiceReader:
    """Asks a model about a record's text and reads the chance of each answer's first token."""

    tokens: Tokens
    characters: int
    prompt: str
    answers: tuple[int, ...]
    """The first token of each answer."""

    def inputs(self, rows: Tensor, *, salt: int | None, longest: bool) -> dict[str, Any]:  # noqa: ARG002  the protocol's
        """Return prompts, padded on the left; logits are asked for the last place alone."""
        tokenizer = self.tokens.tokenizer()
        prompts = [
            _ids(tokenizer, question(tokenizer, self.prompt, text, self.tokens.max_tokens))
            for text in row_texts(rows[:, : self.characters].cpu().numpy())
        ]
        prompts = [ids[-self.tokens.max_tokens :] for ids in prompts]
        least = self.tokens.max_tokens if longest else 0
        return {**_left_padded(prompts, tokenizer, rows.device, least=least), "logits_to_keep": 1}

    def outputs(self, found: Any, inputs: dict[str, Any]) -> Tensor:  # noqa: ARG002  the protocol's
        """Return the logits of the answers, shape `[records, answers]`."""
        return found.logits[:, -1, list(self.answers)]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Reads a conversation, whose last turn is the answer to learn."""

    tokens: Tokens
    characters: int

    def inputs(self, rows: Tensor, *, salt: int | None, longest: bool) -> dict[str, Any]:  # noqa: ARG002  the protocol's
        """Return conversations, padded on the left; logits are asked from the last token before the longest answer."""
        tokenizer = self.tokens.tokenizer()
        texts = row_texts(rows[:, : self.characters].cpu().numpy())
        pairs = [conversation_ids(tokenizer, text, self.tokens.max_tokens) for text in texts]
        least = self.tokens.max_tokens if longest else 0
        width = max(least - 1, *(len(answer) for _, answer in pairs))
        labels = torch.full((len(pairs), width), _UNSEEN)
        for row, (_, answer) in zip(labels, pairs, strict=True):
            row[width - len(answer) :] = torch.tensor(answer)
        padded = _left_padded([before + answer for before, answer in pairs], tokenizer, rows.device, least=least)
        return {**padded, "logits_to_keep": width + 1, "shifted": labels.to(rows.device)}

    def outputs(self, found: Any, inputs: dict[str, Any]) -> Tensor:
        """Return loss and whether the answer would have been given, shape `[records, 1, 2]`."""
        labels = inputs["shifted"]
        logits = found.logits[:, -labels.shape[1] - 1 : -1]
        logits = logits.transpose(1, 2).float()
        losses = functional.cross_entropy(logits, labels, reduction="none", ignore_index=_UNSEEN)
        seen = labels != _UNSEEN
        loss = losses.sum(1) / seen.sum(1).clamp(min=1)
        right = ((logits.argmax(1) == labels) | ~seen).all(1)
        return torch.stack([loss, right.to(loss.dtype)], dim=1)[:, None]


def build(architecture: Architecture) -> ReadingModel:
    """Return the causal model of the architecture's folder, as it reads questions or conversations.

    Raises:
        ModelError: The folder can't be used, its chat template tells no question, prompt and template leave no room
            for a text, or two answers begin with the same token.
    """
    folder = architecture.tower("text")
    model = load_pretrained(AutoModelForCausalLM, folder)
    load_tokenizer(folder, model)
    tokens = tokens_of(folder, model, architecture)
    _require_template(folder, tokens.tokenizer())
    _require_room(tokens, architecture)
    reader: AnswerReader | ChoiceReader = AnswerReader(tokens, architecture.characters)
    if architecture.answers:
        first = first_tokens(tokens.tokenizer(), architecture.answers)
        reader = ChoiceReader(tokens, architecture.characters, architecture.prompt, first)
    model.config.use_cache = False
    return ReadingModel(model, reader, targets=attention_targets(model), heads=(), towers={"text": model})


def question(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, max_tokens: int) -> str:
    """Return the whole question about a text, whose end is cut off where it would pass `max_tokens`."""
    frame = len(_ids(tokenizer, _asked(tokenizer, [("user", prompt.replace("{text}", ""))])))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = max(0, max_tokens - frame)
    if len(ids) > room:
        text = str(tokenizer.decode(ids[:room], skip_special_tokens=True))
    return _asked(tokenizer, [("user", prompt.replace("{text}", text))])


def conversation_ids(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> tuple[list[int], list[int]]:
    """Return the tokens before the answer and of the answer with its end; never more than `max_tokens` in all.

    A text whose last turn is not the assistant's has an empty answer: its end alone.
    """
    turns = turns_of(text)
    answer = turns.pop()[1] if turns and turns[-1][0] == "assistant" else ""
    answer_ids = tokenizer(_joined(tokenizer, answer), add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    answer_ids = answer_ids[: max_tokens - 2] + ([] if end is None else [end])
    before = _ids(tokenizer, _asked(tokenizer, turns or [("user", "")]))
    return before[-(max_tokens - len(answer_ids)) :], answer_ids


def first_tokens(tokenizer: PreTrainedTokenizerBase, answers: tuple[str, ...]) -> tuple[int, ...]:
    """Return the token that each answer begins with.

    Raises:
        ModelError: Two answers begin alike, or one is empty.
    """
    found = [tokenizer(_joined(tokenizer, answer), add_special_tokens=False)["input_ids"] for answer in answers]
    if not all(found) or len({ids[0] for ids in found}) < len(found):
        raise ModelError(
            "model.answers: expected answers whose first tokens differ, got others; use letters or numbers and explain"
            " them in model.prompt"
        )
    return tuple(ids[0] for ids in found)


def alternating(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Return turns as templates with strict rules want them: user and assistant in turn, the user first and last.

    What anybody else says (a system turn, a tool, an assistant's greeting) is told by the user; neighbours are joined.

    >>> alternating([("system", "Be brief."), ("user", "Pain?")])
    [('user', 'Be brief.\n\nPain?')]
    """
    found: list[tuple[str, str]] = []
    for role, content in turns:
        who = "assistant" if role == "assistant" and found else "user"
        if found and found[-1][0] == who:
            found[-1] = (who, f"{found[-1][1]}\n\n{content}")
        else:
            found.append((who, content))
    return found if found and found[-1][0] == "user" else [*found, ("user", "")]


def _asked(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]]) -> str:
    """Return turns as the folder's template writes them, up to where the answer begins.

    Turns that it refuses are told in turns that it takes, then in one, and if need be without it.
    """
    told = "".join(f"{role}: {content}\n" for role, content in turns)
    if not tokenizer.chat_template:
        return turns[0][1] if len(turns) == 1 else f"{told}assistant:"
    for form in (turns, alternating(turns), [("user", told)]):
        with contextlib.suppress(Exception):  # a template is a program: what it raises is no list
            return _rendered(tokenizer, form)
    return f"{told}assistant:"


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _require_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise unless the folder's chat template, if it has one, tells what a user asks."""
    if not tokenizer.chat_template:
        return
    try:
        told = _TRIED in _rendered(tokenizer, [("user", _TRIED)])
    except Exception:  # noqa: BLE001  a template is a program
        told = False
    if not told:
        raise ModelError(
            f"{folder}: expected a chat template that tells what a user asks, got one that doesn't; copy the model's"
            " own chat_template.jinja or tokenizer_config.json"
        )


def _require_room(tokens: Tokens, architecture: Architecture) -> None:
    """Raise unless prompt and template leave some tokens for a text."""
    tokenizer = tokens.tokenizer()
    prompt = architecture.prompt.replace("{text}", "") if architecture.answers else ""
    frame = len(_ids(tokenizer, _asked(tokenizer, [("user", prompt)])))
    if frame + _LEAST_TEXT > tokens.max_tokens:
        raise ModelError(
            f"model.prompt: prompt and chat template take {frame} tokens of model.max_tokens={tokens.max_tokens} and"
            f" leave fewer than {_LEAST_TEXT} for a text; shorten the prompt, or raise model.max_tokens where the model"
            " takes more"
        )


def _joined(tokenizer: PreTrainedTokenizerBase, answer: str) -> str:
    """Return an answer as it follows the prompt: after a space where no template ends the prompt."""
    return answer if tokenizer.chat_template else f" {answer}"


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    if not tokenizer.chat_template and ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        ids = ids[:-1]  # a tokenizer that ends every text would end the prompt before its answer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return list(ids) or [0 if start is None else start]


def _left_padded(
    ids: list[list[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device, *, least: int
) -> dict[str, Tensor]:
    """Return ids, mask and positions, each shape `[records, tokens]` with at least so many tokens."""
    longest = max(least, *(len(row) for row in ids))
    padding = tokenizer.pad_token_id
    tokens = torch.full((len(ids), longest), 0 if padding is None else padding)
    mask = torch.zeros_like(tokens)
    for row, seen, found in zip(tokens, mask, ids, strict=True):
        row[longest - len(found) :] = torch.tensor(found)
        seen[longest - len(found) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {
        "input_ids": tokens.to(device),
        "attention_mask": mask.to(device),
        "position_ids": positions.to(device),
    }
