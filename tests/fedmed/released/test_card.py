"""The card says how a model was made and what is not known, and nothing of a single site."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from released_results import facts_of, plan_of, spec_of

from fedmed.models import Architecture
from fedmed.records import Plan, PrivacySpec
from fedmed.released import StudyResult, model_card

SHARED = PrivacySpec(
    trust_model="distributed", epsilon=8.0, noise_multiplier=1.0, release_noise_multiplier=2.0, distance=0.001
)


def card_of(plan: Plan, *, features: int = 5, classes: int = 3, facts: StudyResult | None = None, **kinds: str) -> str:
    """Return the card of a plan's study."""
    architecture = Architecture.of(plan.model, features=features, classes=classes)
    return model_card(plan, facts or facts_of(plan), architecture, kinds=kinds)


def small_plan(**changes: Any) -> Plan:
    """Return a plan of a linear model."""
    spec, _, _ = spec_of("linear", Path("nowhere"))
    return replace(plan_of(spec, "1" * 64), **changes)


def test_no_name_and_no_figure_of_a_site_is_in_it():
    """Other sites, other traffic and other seconds make no other card; their number is all that it says of them."""
    plan = small_plan()
    facts = facts_of(plan)
    card = card_of(plan, facts=facts)
    for name in facts.sites:
        assert name not in card
    renamed = replace(
        facts, sites=("x", "y", "z"), evaluated=("x", "y"), bytes_up=99, bytes_down=98, seconds={"rounds": 0.25}
    )
    assert card_of(plan, facts=renamed) == card
    assert "over 3 sites in 4 rounds" in card
    assert "2 of\n3 sites did. This card has none of them." in card
    assert "accuracy of" not in card


def test_what_only_people_can_say_is_said_to_be_missing():
    """The intended use is the consortium's to state."""
    card = card_of(small_plan())
    assert "## Intended use\nNot stated. The consortium writes here" in card
    assert "not a medical device and was not validated for care" in card


@pytest.mark.parametrize(
    ("privacy", "text"),
    [
        (None, "Each site adds all of its own noise, so its patients rely on that site's software"),
        (SHARED, "while no more sites side\\s+with the coordinator than the roster assumes, up to a distance of 0.001"),
    ],
)
def test_a_promise_comes_with_what_it_stands_on(privacy: PrivacySpec | None, text: str):
    """Local noise relies on a site's own software, shared noise on the roster's bound."""
    card = card_of(small_plan(**({} if privacy is None else {"privacy": privacy})))
    assert "epsilon 8.0 at delta 1e-05" in card
    assert " ".join(text.replace("\\s+", " ").split()) in " ".join(card.split())


def test_a_model_of_texts_says_how_much_it_reads(tmp_path: Path):
    """Base, window and question are facts of the model, and it is loaded by a class of transformers."""
    spec, features, classes = spec_of("causal-lm:gpt2", tmp_path)
    card = model_card(
        plan_of(spec, "1" * 64), facts_of(plan_of(spec, "1" * 64)),
        Architecture.of(spec, features=features, classes=classes), kinds={"text": "gpt2"},
    )  # fmt: skip
    assert "tags: [federated-learning, medical, text]" in card
    assert "Base for the text: `gpt2`, frozen." in card
    assert "the first 40 characters, and of those at most 96 tokens" in card
    assert "answers: no, yes" in card
    assert "transformers.AutoModelForCausalLM.from_pretrained('../base/text')" in card
    assert str(tmp_path) not in card
