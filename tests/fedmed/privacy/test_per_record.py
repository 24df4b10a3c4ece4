"""Direct per-record gradients are the records' own, on every architecture, and Opacus takes what they don't cover."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_transformers import Case, Logits, losses
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedmed.errors import ModelError
from fedmed.models import Architecture, attach_adapter, build_module
from fedmed.privacy.ceiling import peak_bytes
from fedmed.privacy.engine import hooked_capture, per_record_gradients, train_private
from fedmed.privacy.gradients import Capturing, dropout_off, training_mode
from fedmed.privacy.noise import SeededNoise
from fedmed.privacy.per_record import covers, direct_capture
from fedmed.records import ModelSpec

TOKENS = 6
WAYS = [direct_capture, hooked_capture]


def tokens(records: int = 5) -> Tensor:
    """Return token numbers that no model takes for padding."""
    return torch.randint(5, 40, (records, TOKENS), generator=torch.Generator().manual_seed(1))


def images(records: int = 5) -> Tensor:
    """Return small images."""
    return torch.randn(records, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def adapted(
    model: nn.Module, targets: list[str], *, head: str | None = None, dropout: float = 0.0, transposed: bool = False
) -> nn.Module:
    """Return a model with LoRA on `targets` whose B isn't zero, in float32."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  seconds, and only some tests want it

    config = LoraConfig(
        r=2,
        target_modules=targets,
        modules_to_save=[head] if head else None,
        lora_dropout=dropout,
        fan_in_fan_out=transposed,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
        wrapped: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_()
    return wrapped


def encoder(kind: str, dropout: float = 0.0) -> Case:
    """Return a BERT or RoBERTa classifier with a trained head."""
    import transformers  # noqa: PLC0415  seconds

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    module = adapted(model, ["query", "value", "dense"], head="classifier", dropout=dropout)
    return Logits(module), tokens(), torch.arange(5) % 2


def gpt2() -> Case:
    """Return a GPT-2 language model, whose linears are transposed."""
    import transformers  # noqa: PLC0415  seconds

    config = transformers.GPT2Config(
        vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=16, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    module = adapted(transformers.GPT2LMHeadModel(config), ["c_attn", "c_proj", "c_fc"], transposed=True)
    return Logits(module), tokens(), tokens().roll(-1, 1)


def decoder(kind: str) -> Case:
    """Return a Llama or Qwen2 language model."""
    import transformers  # noqa: PLC0415  seconds

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, max_position_embeddings=16, use_cache=False,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    module = adapted(model, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"])
    return Logits(module), tokens(), tokens().roll(-1, 1)


def vit() -> Case:
    """Return a vision transformer with a trained head."""
    import transformers  # noqa: PLC0415  seconds

    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    module = adapted(transformers.ViTForImageClassification(config), ["q_proj", "v_proj"], head="classifier")
    return Logits(module), images(), torch.arange(5) % 2


def resnet() -> Case:
    """Return a residual network with frozen batch normalisation, LoRA on every convolution and a trained head."""
    import transformers  # noqa: PLC0415  seconds

    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    model = transformers.ResNetForImageClassification(config)
    return Logits(adapted(model, ["convolution"], head="classifier.1")), images(), torch.arange(5) % 2


def tabular() -> Case:
    """Return the project's own transformer for tables with its adapter, A and B trained."""
    architecture = Architecture(family="tabular-transformer", features=5, classes=2, width=8, depth=2, heads=2)
    spec = ModelSpec(
        family="tabular-transformer", adapter="lora", width=8, heads=2, lora_rank=2, lora_alpha=4.0, lora_rule="fedit"
    )
    module = attach_adapter(build_module(architecture, seed=1), spec, seed=1)
    with torch.no_grad():
        for value in module.parameters():
            if not bool(value.any()):
                value.normal_(std=0.5)
    inputs = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    return module, inputs, torch.arange(5) % 2


def tabular_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each record of two classes."""
    from fedmed.models import record_losses  # noqa: PLC0415  beside what it is for

    return record_losses(logits, labels)


CASES: dict[str, Callable[[], Case]] = {
    "BERT": lambda: encoder("Bert"),
    "RoBERTa": lambda: encoder("Roberta"),
    "GPT-2": gpt2,
    "Llama": lambda: decoder("Llama"),
    "Qwen2": lambda: decoder("Qwen2"),
    "ViT": vit,
    "ResNet": resnet,
    "tabular": tabular,
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Return each architecture in turn, with seeded weights and a batch of five."""
    torch.manual_seed(1)
    return CASES[request.param]()


def loss_for(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss that fits a case."""
    return losses if isinstance(case[0], Logits) else tabular_losses


def explicit(case: Case, records: int = 5) -> Tensor:
    """Return the gradients of single records, one forward and backward pass each, in training mode."""
    module, inputs, labels = case
    loss = loss_for(case)
    parameters = [value for value in module.parameters() if value.requires_grad]
    rows = []
    with training_mode(module):
        for row in range(records):
            for value in parameters:
                value.grad = None
            loss(module(inputs[row : row + 1]), labels[row : row + 1]).sum().backward()
            rows.append(torch.cat([_gradient(value).flatten() for value in parameters]))
    for value in parameters:
        value.grad = None
    return torch.stack(rows)


def _gradient(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad.clone()


def captured(case: Case, capturing: Capturing | None) -> Tensor:
    """Return the per-record gradients of a case."""
    module, inputs, labels = case
    chunks = per_record_gradients(
        module, loss=loss_for(case), inputs=inputs, labels=labels, physical_batch=3, capturing=capturing
    )
    return torch.cat(list(chunks))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest error of a record's gradient, relative to its norm."""
    return float(((actual - expected).norm(dim=1) / expected.norm(dim=1)).max())


def step(case: Case, capturing: Capturing | None, **changes: Any) -> Tensor:
    """Return the change of the trained parameters in one private step, and put them back."""
    module, inputs, labels = case
    parameters = [value for value in module.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in parameters]
    settings: dict[str, Any] = {
        "steps": 1, "sample_rate": 1.0, "expected_batch": 5.0, "clip_norm": 0.5, "noise_multiplier": 1e-6,
        "learning_rate": 1.0, "momentum": 0.0, "noise": SeededNoise(b"k"),
    } | changes  # fmt: skip
    train_private(module, loss=loss_for(case), inputs=inputs, labels=labels, capturing=capturing, **settings)
    moved = torch.cat([(value.detach() - old).flatten() for value, old in zip(parameters, before, strict=True)])
    with torch.no_grad():
        for value, old in zip(parameters, before, strict=True):
            value.copy_(old)
    return moved


# --- equal to an explicit loop -----------------------------------------------------------------


def test_every_architecture_is_covered(case: Case):
    """Adapters on linears, `Conv1D` and convolutions, and plain heads, all go the direct way."""
    assert covers(case[0])


@pytest.mark.parametrize("capturing", WAYS)
def test_rows_equal_an_explicit_loop(case: Case, capturing: Capturing):
    """Each row is the gradient of that record alone, to 1e-5 of its norm, by either way of capture."""
    assert relative_error(captured(case, capturing), explicit(case)) < 1e-5


def test_both_ways_take_the_same_step(case: Case):
    """A private step is the same by the direct way as by Opacus, so its guarantee is too."""
    direct, hooked, chosen = (step(case, way) for way in (direct_capture, hooked_capture, None))
    assert torch.equal(direct, chosen)
    assert float((direct - hooked).norm() / hooked.norm()) < 1e-5


@pytest.mark.parametrize("capturing", WAYS)
def test_an_empty_batch_is_noise_alone(case: Case, capturing: Capturing):
    """Nobody sampled: the step is the noise, and equal for both ways."""
    moved = step(case, capturing, sample_rate=1e-12, noise_multiplier=1.0)
    noise = torch.from_numpy(SeededNoise(b"k").normal(len(moved))).float()
    assert torch.allclose(moved, -0.5 / 5 * noise, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("capturing", WAYS)
def test_the_module_comes_back_clean(case: Case, capturing: Capturing):
    """No replaced method, no hook, no gradient is left, and the buffers are as they were."""
    module = case[0]
    seen = {name: set(vars(layer)) for name, layer in module.named_modules()}
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    step(case, capturing)
    assert {name: set(vars(layer)) for name, layer in module.named_modules()} == seen
    assert all(torch.equal(value, buffers[name]) for name, value in module.named_buffers())
    assert not any(vars(value) or value.grad is not None for value in module.parameters())


# --- rows that wait ----------------------------------------------------------------------------


class Narrowing(nn.Module):
    """A wide convolution of few positions, whose rows are larger than what they are made of."""

    def __init__(self, *, twice: bool = False) -> None:
        super().__init__()
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.end = nn.Linear(16, 2)
        self.twice = twice
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        inside = inputs.repeat(1, 16, 1, 1)
        self.seen = [inside]
        for _ in range(2 if self.twice else 1):
            inside = self.wide(inside)
        outputs: Tensor = self.end(inside.mean((2, 3)))
        return outputs


def narrow(records: int = 8) -> tuple[Tensor, Tensor]:
    """Return images of four pixels, and labels."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(records, 1, 2, 2, generator=generator), torch.arange(records) % 2


@pytest.mark.parametrize("twice", [False, True])
def test_rows_that_wait_are_the_records_own_each_time_that_they_are_asked_for(twice: bool):  # noqa: FBT001
    """A convolution's rows equal an explicit loop, its second use included, and asking again gives the same bits."""
    torch.manual_seed(1)
    case = (Narrowing(twice=twice), *narrow(5))
    assert relative_error(captured(case, direct_capture), explicit(case)) < 1e-5
    with training_mode(case[0]), direct_capture(case[0], losses) as capture:
        rows = capture(*case[1:])
        assert torch.equal(rows["wide.weight"], rows["wide.weight"])


def test_rows_that_wait_take_less_memory_than_rows():
    """What a pass holds at its end is a fraction of a gradient for each record."""
    module, (inputs, labels) = Narrowing(), narrow(64)
    rows_bytes = 64 * module.wide.weight.nbytes
    with training_mode(module), direct_capture(module, losses) as capture:
        held = peak_bytes(lambda: capture(inputs, labels), torch.device("cpu"))
        made = peak_bytes(lambda: capture(inputs, labels)["wide.weight"], torch.device("cpu"))
    assert held < rows_bytes / 4
    assert made > rows_bytes


@pytest.mark.parametrize("reentrant", [True, False])
def test_rows_that_wait_stand_checkpointing_and_dropout(reentrant: bool):  # noqa: FBT001
    """What they are made of is what the recomputed pass saw, under the same masks, whichever kind of checkpointing."""

    class Recomputed(Narrowing):
        def forward(self, inputs: Tensor) -> Tensor:
            inside = inputs.repeat(1, 16, 1, 1).requires_grad_()
            inside = checkpoint(
                lambda value: torch.dropout(self.wide(value), 0.5, train=True), inside, use_reentrant=reentrant
            )
            outputs: Tensor = self.end(inside.mean((2, 3)))
            return outputs

    torch.manual_seed(1)
    module, (inputs, labels) = Recomputed(), narrow()
    parameters = list(module.parameters())
    expected = []
    for row in range(len(labels)):
        torch.manual_seed(7)
        fresh = losses(module(inputs), labels)[row]
        module.zero_grad()
        fresh.backward()
        expected.append(torch.cat([value.grad.flatten() for value in parameters]))
    with training_mode(module), direct_capture(module, losses) as capture:
        torch.manual_seed(7)
        rows = capture(inputs, labels)
        found = torch.cat([rows[name].flatten(1) for name, _ in module.named_parameters()], dim=1)
    assert relative_error(found, torch.stack(expected)) < 1e-5


def test_rows_that_wait_are_refused_when_their_inputs_were_overwritten():
    """A model that writes into a layer's inputs after the backward pass gets an error, not another gradient."""
    module, (inputs, labels) = Narrowing(), narrow()
    with training_mode(module), direct_capture(module, losses) as capture:
        rows = capture(inputs, labels)
        module.seen[0].zero_()
        with pytest.raises(ModelError, match="a Conv2d layer: expected inputs that stay as they were"):
            rows["wide.weight"]


# --- dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("capturing", WAYS)
def test_with_dropout_rows_are_gradients_under_the_same_masks(capturing: Capturing):
    """Each record keeps the mask that the forward pass drew for it; LoRA's own dropout too."""
    torch.manual_seed(1)
    module, inputs, labels = encoder("Bert", dropout=0.3)
    parameters = [value for value in module.parameters() if value.requires_grad]
    with training_mode(module):
        torch.manual_seed(7)
        each = losses(module(inputs), labels)
        expected = torch.stack(
            [
                torch.cat([part.flatten() for part in torch.autograd.grad(each[row], parameters, retain_graph=True)])
                for row in range(5)
            ]
        )
        with capturing(module, losses) as capture:
            torch.manual_seed(7)
            rows = capture(inputs, labels)
    assert relative_error(torch.cat([rows[name].flatten(1) for name in rows], dim=1), expected) < 1e-5


def test_dropout_is_drawn_anew_for_every_step():
    """Two captures without a common seed differ; training doesn't run in eval mode."""
    torch.manual_seed(1)
    module, inputs, labels = encoder("Bert", dropout=0.3)
    with training_mode(module), direct_capture(module, losses) as capture:
        one, other = (torch.cat([part.flatten() for part in capture(inputs, labels).values()]) for _ in "ab")
        with dropout_off(module):
            still, again = (torch.cat([part.flatten() for part in capture(inputs, labels).values()]) for _ in "ab")
    assert not torch.equal(one, other)
    assert torch.equal(still, again)


# --- gradient checkpointing --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Bert", "Llama"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_rows_equal_an_explicit_loop(kind: str, reentrant: bool):  # noqa: FBT001
    """Activations that are recomputed backward, by either kind of checkpointing, give the same rows."""
    torch.manual_seed(1)
    case = encoder(kind) if kind == "Bert" else decoder(kind)
    expected = explicit(case)
    model: Any = case[0].model
    base = model.get_base_model()
    base.enable_input_require_grads()
    base.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert sum(getattr(layer, "gradient_checkpointing", False) for layer in base.modules())
    assert relative_error(captured(case, direct_capture), expected) < 1e-5
    assert relative_error(captured(case, None), expected) < 1e-5


# --- what isn't covered ------------------------------------------------------------------------


class Own(nn.Linear):
    """A linear that computes something else than its parent."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the parent's
        """Return twice the parent's result."""
        return 2 * super().forward(input)


def replaced() -> nn.Module:
    """Return a linear whose forward pass somebody replaced on the object."""
    layer = nn.Linear(5, 2)
    layer.forward = lambda input: nn.functional.linear(input, 2 * layer.weight)  # type: ignore[method-assign]  # noqa: A006
    return layer


def hooked() -> nn.Module:
    """Return a linear with a hook on its output."""
    layer = nn.Linear(5, 2)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)  # noqa: ARG005
    return layer


UNCOVERED: dict[str, Callable[[], nn.Module]] = {
    "an embedding": lambda: nn.Embedding(3, 2),
    "a subclass": lambda: Own(5, 2),
    "a replaced forward": replaced,
    "a hook": hooked,
    "a parametrised weight": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 2)),
    "a group norm": lambda: nn.GroupNorm(1, 5),
    "circular padding": lambda: nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"),
    "padding by name": lambda: nn.Conv1d(1, 1, 3, padding="same"),
    "a bare parameter": lambda: nn.ParameterList([torch.zeros(2)]),
}


@pytest.mark.parametrize("kind", UNCOVERED)
def test_one_foreign_layer_sends_the_whole_module_to_opacus(kind: str):
    """A module is never captured half by one way and half by the other; frozen, the same layer doesn't matter."""
    foreign = UNCOVERED[kind]()
    assert not covers(nn.Sequential(nn.Linear(2, 2), foreign, nn.Linear(2, 2)))
    foreign.requires_grad_(requires_grad=False)
    assert covers(nn.Sequential(nn.Linear(2, 2), foreign, nn.Linear(2, 2)))


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List the ways of capture in the order in which a training enters them."""
    entered: list[str] = []

    def listening(name: str, way: Capturing) -> Capturing:
        def enter(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Any:
            entered.append(name)
            return way(module, loss)

        return enter

    monkeypatch.setattr("fedmed.privacy.engine.direct_capture", listening("direct", direct_capture))
    monkeypatch.setattr("fedmed.privacy.engine.hooked_capture", listening("opacus", hooked_capture))
    return entered  # type: ignore[return-value]


def binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the squared error of each record."""
    return (logits.squeeze(-1) - labels).square()


def toy(module: nn.Module) -> Case:
    """Return a batch of five for a module on five numbers."""
    return module, torch.randn(5, 5, generator=torch.Generator().manual_seed(2)), torch.arange(5) % 2


def toy_step(module: nn.Module) -> None:
    """Take a private step of a module on five numbers."""
    _, inputs, labels = toy(module)
    train_private(
        module, loss=binary, inputs=inputs, labels=labels.float(), steps=1, sample_rate=1.0, expected_batch=5.0,
        clip_norm=1.0, noise_multiplier=1.0, learning_rate=0.1, momentum=0.0, noise=SeededNoise(b"k"),
    )  # fmt: skip


def test_a_covered_module_goes_the_direct_way_only(ways: list[str]):
    """Opacus isn't asked where it isn't needed."""
    toy_step(nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 1)))
    assert ways == ["direct"]


def test_an_uncovered_module_goes_through_opacus_only(ways: list[str]):
    """Layers that the direct way doesn't know are the reference's."""
    toy_step(nn.Sequential(nn.Linear(5, 4), nn.GroupNorm(1, 4), nn.Linear(4, 1)))
    assert ways == ["opacus"]


def test_a_failed_trial_goes_to_opacus_whose_refusal_counts(ways: list[str]):
    """A weight that's used beside its layer is seen by neither way, and the training is refused."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, inputs: Tensor) -> Tensor:
            return (self.layer(inputs) @ self.layer.weight).sum(1)

    with pytest.raises(ModelError, match="isn't that record's own"):
        toy_step(Beside())
    assert ways == ["direct", "opacus"]


def test_a_use_beside_the_layer_is_refused_on_every_batch():
    """A module that behaves in the trial and not afterwards is caught by the gradient that reached its parameter."""

    class Later(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            result = self.layer(inputs)
            return result if len(inputs) <= 3 else result + inputs @ self.layer.weight.T

    with pytest.raises(ModelError, match="a use beside it"):
        toy_step(Later())


# --- sharing, position, precision --------------------------------------------------------------


class Shared(nn.Module):
    """A layer that's called twice, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.head = nn.Linear(5, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return two logits per record."""
        hidden = self.layer(torch.tanh(self.layer(inputs)))
        return self.head(self.second(torch.tanh(self.first(hidden))))


class Convolutions(nn.Module):
    """Strides, groups, dilation, a stem without an input gradient, and normalisation over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 5, stride=2, padding=2)
        self.block = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2)
        self.line = nn.Conv1d(8, 4, 3, stride=3)
        self.norm = nn.LayerNorm((4, 21))
        self.head = nn.Linear(4 * 21, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return two logits per record."""
        hidden = torch.relu_(self.block(torch.relu_(self.stem(inputs))))
        return self.head(self.norm(self.line(hidden.flatten(2))).flatten(1))


@pytest.mark.parametrize("build", [Shared, Convolutions])
def test_uses_of_one_parameter_add_up_and_shapes_are_general(build: Callable[[], nn.Module]):
    """Shared layers and weights, in-place activations, and convolutions of any geometry equal a loop."""
    torch.manual_seed(1)
    module = build()
    inputs = images() if isinstance(module, Convolutions) else toy(module)[1]
    labels = torch.arange(5) % 2
    rows = torch.cat(
        list(per_record_gradients(module, loss=losses, inputs=inputs, labels=labels, capturing=direct_capture))
    )
    parameters = list(module.parameters())
    for row in range(5):
        total = losses(module(inputs[row : row + 1]), labels[row : row + 1]).sum()
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(total, parameters)])
        assert torch.allclose(rows[row], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_layer_used_in_vain_changes_nothing():
    """A forward pass whose result isn't used adds no gradient: there is no stack that it could misalign."""

    class Wasteful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            used = self.layer(inputs)
            self.layer(2 * inputs)
            return self.head(used)

    module, inputs, labels = toy(Wasteful())
    (rows,) = per_record_gradients(module, loss=losses, inputs=inputs, labels=labels, capturing=direct_capture)
    total = losses(module(inputs[:1]), labels[:1]).sum()
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(total, list(module.parameters()))])
    assert torch.allclose(rows[0], expected, rtol=1e-5, atol=1e-7)


def test_half_precision_inside_a_trained_layer_is_refused():
    """Autocast would round a gradient before it's clipped; a frozen base in half precision is another matter."""

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.head = nn.Linear(5, 5).requires_grad_(requires_grad=False), nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.base(inputs).bfloat16())

    module, inputs, labels = toy(Cast())
    with direct_capture(module, binary) as capture, pytest.raises(ModelError, match="expected float32 inputs"):
        capture(inputs, labels)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_a_bad_image_spoils_no_other(bad: float):
    """Convolutions of all records at once keep them apart: a non-finite record leaves the other rows as they are."""
    torch.manual_seed(1)
    module, inputs, labels = resnet()
    clean = captured((module, inputs, labels), direct_capture)
    spoilt = inputs.clone()
    spoilt[2] = bad
    rows = captured((module, spoilt, labels), direct_capture)
    assert not torch.isfinite(rows[2]).all()
    kept = torch.arange(5) != 2
    assert torch.allclose(rows[kept], clean[kept], rtol=1e-4, atol=1e-6)
    assert torch.isfinite(step((module, spoilt, labels), None)).all()
