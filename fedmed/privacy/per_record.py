"""Per-record gradients in one backward pass, at the price of the ordinary gradient.

Why it exists: behind hooks, a layer's ordinary weight gradient is computed first and thrown
away. Here the layer's place in the graph is taken by a function whose backward pass yields one
weight gradient per record and no other, so a private step costs about what a plain one costs.

Rules:
    * It applies to a whole module or not at all: every trainable parameter is the weight or bias of
      a linear, convolution or layer normalisation of exactly torch's own class. So are the factors
      of a LoRA adapter on a linear, a transformers `Conv1D` or a convolution, and plain heads.
    * A layer called several times, or a parameter that layers share, gets the sum of its uses.
    * Nothing is kept on a stack, so checkpointing of either kind recomputes what it likes.
    * On a processor a convolution's rows that are larger than what they are made of are made when asked for, each time
      the same to the bit.
    * A row that can't be one record's, or a gradient that reached a parameter past its layer, is refused.

What it does not do: clip, or judge whether a row holds its record's gradient alone (see `per_record_trial`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedmed.errors import ModelError
from fedmed.privacy.gradients import Capture, Loss, forget_gradients, record_losses, trainable

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

_WEIGHTS = {"weight", "bias"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def covers(module: nn.Module) -> bool:
    """Return whether `direct_capture` can yield the gradients of everything that `module` trains.

    >>> covers(nn.Linear(2, 1)), covers(nn.Embedding(2, 1))
    (True, False)
    """
    return all(_covers_layer(layer) for layer in _training_layers(module))


@contextmanager
def direct_capture(module: nn.Module, loss: Loss) -> Iterator[Capture]:
    """Lend the capture of `module`'s per-record gradients; afterwards the module is as it was.

    Args:
        module: One that `covers` accepts.
        loss: One loss per record.

    Raises:
        ModelError: From the capture: a layer or parameter wasn't used record by record.
    """
    parameters = trainable(module)
    watch = _Watch()
    layers = _training_layers(module)
    before = [(layer, layer.__dict__.get("forward")) for layer in layers]

    def capture(inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        forget_gradients(parameters)
        with watch.batch_of(len(inputs)) as rows:
            record_losses(loss, module(inputs), labels).sum().backward()  # type: ignore[no-untyped-call]
        for name, value in parameters.items():
            if value.grad is not None:
                raise ModelError(f"parameter {name!r}: expected use inside its own layer only, found a use beside it")
        return _Gradients({name: rows[value] for name, value in parameters.items() if value in rows})

    try:
        for layer in layers:
            layer.forward = _watched(layer, watch)
        yield capture
    finally:
        for layer, forward in before:
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward
        forget_gradients(parameters)


class _Gradients(Mapping[str, Tensor]):
    """Gradients of each record by parameter; those that wait are made anew each time that they are asked for."""

    def __init__(self, rows: "Mapping[str, Tensor | _Waiting]") -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Tensor:
        return _made(self._rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _Watch:
    """The batch that watched layers see at the moment: how many records, and their gradients so far."""

    def __init__(self) -> None:
        self.records: int | None = None
        self.rows: dict[nn.Parameter, Tensor | _Waiting] = {}

    @contextmanager
    def batch_of(self, records: int) -> "Iterator[Mapping[nn.Parameter, Tensor | _Waiting]]":
        """Watch one forward and backward pass over `records` records and fill the gradients lent."""
        self.records, self.rows = records, {}
        rows = self.rows
        try:
            yield rows
        finally:
            self.records, self.rows = None, {}

    def add(self, parameter: nn.Parameter, rows: "Tensor | _Waiting") -> None:
        """Add one use of a parameter."""
        self.rows[parameter] = _made(self.rows[parameter]) + _made(rows) if parameter in self.rows else rows


class _Rule(Protocol):
    """The derivative of one class of layers; the first dimension of every tensor counts records."""

    waits: bool
    """Whether making the rows of a weight twice costs little beside the layer's other work."""

    def fits(self, layer: Any, inputs: Tensor) -> bool:
        """Return whether `inputs` have records on a dimension of their own."""
        ...

    def input_gradient(self, layer: Any, gradient: Tensor, inputs: Tensor) -> Tensor:
        """Return the gradient with respect to the inputs."""
        ...

    def weight_rows(self, layer: Any, gradient: Tensor, inputs: Tensor) -> Tensor:
        """Return the gradient of the weight for each record, (records, *weight.shape)."""
        ...

    def bias_rows(self, layer: Any, gradient: Tensor) -> Tensor:
        """Return the gradient of the bias for each record, (records, *bias.shape)."""
        ...


class _LinearRule:
    """output = inputs @ weight.T + bias, over any number of positions per record."""

    waits = False

    def fits(self, layer: nn.Linear, inputs: Tensor) -> bool:  # noqa: ARG002  the protocol's
        return inputs.ndim >= 2

    def input_gradient(self, layer: nn.Linear, gradient: Tensor, inputs: Tensor) -> Tensor:  # noqa: ARG002
        return gradient @ layer.weight

    def weight_rows(self, layer: nn.Linear, gradient: Tensor, inputs: Tensor) -> Tensor:
        records = len(inputs)
        outputs = gradient.reshape(records, -1, layer.out_features)
        return torch.bmm(outputs.transpose(1, 2), inputs.reshape(records, -1, layer.in_features))

    def bias_rows(self, layer: nn.Linear, gradient: Tensor) -> Tensor:
        return gradient.reshape(len(gradient), -1, layer.out_features).sum(1)


class _ConvolutionRule:
    """A convolution, whose gradients per record are those of one convolution with a group for each record."""

    waits = True

    def fits(self, layer: Convolution, inputs: Tensor) -> bool:
        return inputs.ndim == len(layer.kernel_size) + 2

    def input_gradient(self, layer: Convolution, gradient: Tensor, inputs: Tensor) -> Tensor:
        return _convolve_back(layer, gradient, inputs, layer.weight, wanted=0)

    def weight_rows(self, layer: Convolution, gradient: Tensor, inputs: Tensor) -> Tensor:
        records, shape = len(inputs), layer.weight.shape
        rows = _convolve_back(
            layer,
            gradient.reshape(1, -1, *gradient.shape[2:]),
            inputs.reshape(1, -1, *inputs.shape[2:]),
            layer.weight.new_empty(()).expand(records * shape[0], *shape[1:]),  # only its shape is read
            wanted=1,
        )
        return rows.view(records, *shape)

    def bias_rows(self, layer: Convolution, gradient: Tensor) -> Tensor:  # noqa: ARG002  the protocol's
        return gradient.flatten(2).sum(2)


class _LayerNormRule:
    """output = normalised inputs * weight + bias, over the last dimensions."""

    waits = False

    def fits(self, layer: nn.LayerNorm, inputs: Tensor) -> bool:
        return inputs.ndim > len(layer.normalized_shape)

    def input_gradient(self, layer: nn.LayerNorm, gradient: Tensor, inputs: Tensor) -> Tensor:
        _, mean, scale = self._normalised(layer, inputs)
        result: Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient, inputs, layer.normalized_shape, mean, scale, layer.weight, layer.bias, [True, False, False]
        )[0]
        return result

    def weight_rows(self, layer: nn.LayerNorm, gradient: Tensor, inputs: Tensor) -> Tensor:
        return self.bias_rows(layer, gradient * self._normalised(layer, inputs)[0])

    def bias_rows(self, layer: nn.LayerNorm, gradient: Tensor) -> Tensor:
        return gradient.reshape(len(gradient), -1, *layer.normalized_shape).sum(1)

    def _normalised(self, layer: nn.LayerNorm, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_layer_norm(inputs, layer.normalized_shape, None, None, layer.eps)


_RULES: Mapping[type[nn.Module], _Rule] = {
    nn.Linear: _LinearRule(),
    nn.Conv1d: _ConvolutionRule(),
    nn.Conv2d: _ConvolutionRule(),
    nn.Conv3d: _ConvolutionRule(),
    nn.LayerNorm: _LayerNormRule(),
}


def _training_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that own a trainable parameter."""
    return [layer for layer in module.modules() if any(value.requires_grad for value in _own(layer).values())]


def _own(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a layer holds itself; torch's own way to ask is slow in a large module."""
    held = layer._parameters.items()  # noqa: SLF001
    return {name: value for name, value in held if value is not None}


def _covers_layer(layer: nn.Module) -> bool:
    """Return whether a layer is a plain one of `_RULES`, and computes what its class computes."""
    if type(layer) not in _RULES or not _own(layer).keys() <= _WEIGHTS:
        return False
    if "forward" in vars(layer) or any(getattr(layer, hooks) for hooks in _HOOKS):
        return False
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return True


def _watched(layer: Any, watch: _Watch) -> Callable[[Tensor], Tensor]:
    """Return a forward pass of `layer` that hands the gradients of watched batches to `watch`."""
    own: Callable[[Tensor], Tensor] = layer.forward
    rule = _RULES[type(layer)]

    def forward(input: Tensor) -> Tensor:  # noqa: A002  torch's layers call it so
        if watch.records is None or not torch.is_grad_enabled():
            return own(input)
        if len(input) != watch.records or not rule.fits(layer, input):
            raise ModelError(
                f"a {type(layer).__name__} layer: expected one row for each of the batch's records; keep records on "
                "the first dimension of every layer"
            )
        if input.dtype != layer.weight.dtype:
            raise ModelError(f"a trainable {type(layer).__name__} layer: expected float32 inputs, got {input.dtype}")
        output: Tensor = _Observed.apply(  # type: ignore[no-untyped-call]
            input, layer.weight, layer.bias, _Use(layer, own, watch)
        )
        return output

    return forward


@dataclass(frozen=True, slots=True)
class _Use:
    """One use of a layer in a forward pass."""

    layer: Any
    own: Callable[[Tensor], Tensor]
    watch: _Watch


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """Rows of a weight that are not made yet, and what they are made of."""

    rule: _Rule
    layer: Any
    gradient: Tensor
    inputs: Tensor
    versions: tuple[int, ...]

    def made(self) -> Tensor:
        """Return the rows.

        Raises:
            ModelError: The model wrote into a tensor after its gradient was taken.
        """
        if _versions(self.gradient, self.inputs) != self.versions:
            raise ModelError(
                f"a {type(self.layer).__name__} layer: expected inputs that stay as they were during a step, found them"
                " overwritten; take in-place operations out of this model"
            )
        with torch.no_grad():
            return self.rule.weight_rows(self.layer, self.gradient, self.inputs)


def _weight_rows(rule: _Rule, layer: Any, gradient: Tensor, inputs: Tensor) -> Tensor | _Waiting:
    """Return the rows of a layer's weight, or what they will be made of where that is smaller.

    On a card they are made at once: it need not find the same bits twice.
    """
    if (
        not rule.waits
        or gradient.device.type != "cpu"
        or gradient.numel() + inputs.numel() >= len(inputs) * layer.weight.numel()
    ):
        return rule.weight_rows(layer, gradient, inputs)
    gradient, inputs = gradient.detach(), inputs.detach()
    return _Waiting(rule, layer, gradient, inputs, _versions(gradient, inputs))


def _versions(*tensors: Tensor) -> tuple[int, ...]:
    """Return a count for each tensor that every write to it raises."""
    return tuple(value._version for value in tensors)  # noqa: SLF001  torch has no public name for it


def _made(rows: Tensor | _Waiting) -> Tensor:
    return rows.made() if isinstance(rows, _Waiting) else rows


class _Observed(torch.autograd.Function):
    """A layer's own forward pass; backward, the input's gradient goes on and the parameters' go to the watch.

    Weight and bias are arguments so that the output belongs to the graph where only they are trained.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, use: "_Use") -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(inputs, weight)
        ctx.use = use
        return use.own(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        layer, watch = ctx.use.layer, ctx.use.watch
        rule = _RULES[type(layer)]
        if weight.requires_grad:
            watch.add(layer.weight, _weight_rows(rule, layer, gradient, inputs))
        if layer.bias is not None and layer.bias.requires_grad:
            watch.add(layer.bias, rule.bias_rows(layer, gradient))
        onwards = rule.input_gradient(layer, gradient, inputs) if ctx.needs_input_grad[0] else None
        return onwards, None, None, None


def _convolve_back(layer: Convolution, gradient: Tensor, inputs: Tensor, weight: Tensor, *, wanted: int) -> Tensor:
    """Return the gradient of a convolution with `weight`, at the strides of `layer`: of inputs (0) or weight (1)."""
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,  # noqa: FBT003  not transposed
        [0] * len(layer.kernel_size),
        inputs.shape[1] // weight.shape[1],
        [wanted == 0, wanted == 1, False],
    )
    return result[wanted]
