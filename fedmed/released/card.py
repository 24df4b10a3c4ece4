"""The model card: what a released model is, how it was made, what is promised and what is not.

Why it exists: a folder of weights goes from hand to hand; what it is for and what it may not be trusted with has to go
with it.

Rules:
    * A function of the plan, the study's facts and the architecture: the same study has the same card, byte for byte.
    * Of the sites it gives their number; no name, no count of patients and no figure of one of them. Evaluations stay
      at the sites, so there is no accuracy to give.
    * What only people can say, such as the intended use, is left to them and said to be missing.

What it does not do: judge a model.
"""

from fedmed import __version__
from fedmed.models import Architecture
from fedmed.records import Plan, PrivacySpec
from fedmed.released.facts import StudyResult

NORMALISATIONS = {
    "public": "public clinical ranges",
    "site": "each site's own statistics",
    "federated": "federated statistics",
}
_READS = {
    "survival": "table", "ngrams": "text", "text-encoder": "text", "causal-lm": "text", "image-encoder": "image",
    "fusion": "text and image",
}  # fmt: skip
_AUTO = {
    "text-encoder": ("AutoModelForSequenceClassification", "text"),
    "causal-lm": ("AutoModelForCausalLM", "text"),
    "image-encoder": ("AutoModelForImageClassification", "image"),
}


def auto_class(family: str) -> tuple[str, str] | None:
    """Return transformers' class that loads a family's base, and the base's folder; None for a class of FedMed."""
    return _AUTO.get(family)


def promise(privacy: PrivacySpec) -> str:
    """Return what a plan promises the patients, in one paragraph, with what the promise stands on."""
    if not privacy.private:
        return "None. The model may remember single patients; do not publish it."
    text = (
        f"Record-level differential privacy at each site (trust model `{privacy.trust_model}`): the plan asked for at"
        f" most epsilon {privacy.epsilon} at delta {privacy.delta} over all studies of the sequence; what was spent"
        " stands in each site's own ledger, under that site's cap."
        f" Clip norm {privacy.clip_norm}, noise multiplier {privacy.noise_multiplier}. {_assumption(privacy)}"
    )
    if privacy.noise == "simulated-seed":
        text += " **The noise came from a seed: this is a simulation and protects nobody.**"
    return text


def _assumption(privacy: PrivacySpec) -> str:
    if privacy.trust_model == "local":
        return "Each site adds all of its own noise, so its patients rely on that site's software and on nobody else."
    return (
        "Each site adds a share of the noise, and only sums are protected: the promise holds while no more sites side"
        f" with the coordinator than the roster assumes, up to a distance of {privacy.distance} from Gaussian noise for"
        " each sum. Against a site that looks at the sums, one share less protects: its own."
    )


def model_card(plan: Plan, facts: StudyResult, architecture: Architecture, *, kinds: dict[str, str]) -> str:
    """Return the model card as Markdown.

    Args:
        plan: What was run.
        facts: What came of it.
        architecture: Of the base.
        kinds: Of each pretrained model in the base, by what it reads, its kind as transformers names it.
    """
    adapter = plan.model.adapter == "lora"
    reads = _READS.get(plan.model.family, "table")
    return f"""---
library_name: {"peft" if adapter else "fedmed"}
tags: [federated-learning, medical, {reads.split()[0]}]
---
# {plan.study}

A {plan.model.family} model ({plan.model.adapter}) for `{plan.data.target}` on data of schema `{plan.data.schema}`,
trained by FedMed {__version__} over {len(facts.sites)} sites in {facts.rounds} rounds.

## Intended use
Not stated. The consortium writes here what the model is for, with which patients, and who answers for it.
Until it has, the model is for research. It is not a medical device and was not validated for care.

## Model
{_model(plan, architecture, kinds)}

## Data
Schema digest `{plan.data.schema_digest}`; cohort: {", ".join(plan.data.cohort) or "all patients"};
features normalised by {NORMALISATIONS[plan.data.normalisation]}. No record left a site.

## Training
{_training(plan, facts)}

## Privacy
{promise(plan.privacy)}

## Aggregation
`{facts.aggregation}`: the coordinator saw {_seen(facts)}.

## Evaluation
Sites evaluate the released model on records that it was not trained on, and keep the figures: {len(facts.evaluated)} of
{len(facts.sites)} sites did. This card has none of them.

## Limits
{_limits(plan, architecture)}

## Loading
{_loading(plan)}

Plan digest `{facts.plan_digest}`; base digest `{plan.base_digest}`.
"""


def _seen(facts: StudyResult) -> str:
    insecure = facts.aggregation == "insecure"
    return "each site's update" if insecure else "sums over the sites of a round and nothing of one site"


def _model(plan: Plan, architecture: Architecture, kinds: dict[str, str]) -> str:
    spec = plan.model
    lines = [f"- Reads: {_READS.get(spec.family, 'table')}; a row of {architecture.features} values."]
    lines += [f"- Base for the {part}: `{kind}`, frozen." for part, kind in sorted(kinds.items())]
    if spec.pretrained and spec.family != "fusion":
        shape = []
    else:
        shape = [f"width {spec.width}", f"depth {spec.depth}", f"heads {spec.heads}"]
    if spec.adapter == "lora":
        shape += [f"LoRA of rank {spec.lora_rank}, alpha {spec.lora_alpha:g}, rule `{spec.lora_rule}`"]
    lines += [f"- Shape: {', '.join(shape)}.", f"- Classes: {architecture.classes}."]
    if architecture.answers:
        lines += [f"- Asked: {architecture.prompt!r}; answers: {', '.join(architecture.answers)}."]
    return "\n".join(lines)


def _training(plan: Plan, facts: StudyResult) -> str:
    training = plan.training
    earlier = f"\nIt was trained after {len(plan.continual.earlier)} earlier studies." if plan.continual.earlier else ""
    own = "\nEach site keeps a model of its own besides, which is not released." if plan.model.personal else ""
    low = plan.model.precision
    base = "" if low == "fp32" else f"\nThe frozen base was computed in {low}, what was trained in fp32."
    return (
        f"{facts.rounds} rounds of {training.local_steps} local steps; Poisson samples at a rate of"
        f" {training.sample_rate:g}; learning rate {training.learning_rate:g}.\n"
        f"Updates became one by `{plan.optimiser.kind}`, learning rate {plan.optimiser.learning_rate:g}."
        f"{earlier}{own}{base}"
    )


def _limits(plan: Plan, architecture: Architecture) -> str:
    found = [
        "How it does with patients of other hospitals than those that trained it is not known.",
        "Whether it serves groups of patients unequally was not measured here.",
    ]
    if plan.privacy.private:
        found += ["Clipping and noise cost accuracy, and may cost rare groups of patients more of it."]
    if plan.model.family in ("text-encoder", "causal-lm", "fusion"):
        seen, tokens = architecture.characters, architecture.max_tokens
        found += [f"Of a text it sees the first {seen} characters, and of those at most {tokens} tokens."]
    if plan.model.family == "ngrams":
        found += [f"Of a text it sees the first {architecture.characters} characters."]
    if plan.model.family == "survival":
        found += ["Censoring that depends on the risk is not handled."]
    if plan.model.family == "causal-lm":
        found += ["It can write what is not so."]
    return "\n".join(f"- {line}" for line in found)


def _loading(plan: Plan) -> str:
    if plan.model.adapter == "full":
        return "`fedmed.models.load_module('model', expected_digest=...)`; or `fedmed model export --form onnx`."
    auto = auto_class(plan.model.family)
    base = (
        f"`transformers.{auto[0]}.from_pretrained('../base/{auto[1]}')`"
        if auto
        else "the module in `../base` (`fedmed.models.load_module`)"
    )
    return (
        f"`PeftModel.from_pretrained(base, 'model')`, where `base` is {base};\n"
        "or `fedmed model export`, which merges the adapter into the base or writes ONNX."
    )
