"""What the coordinator does with the mean update: Flower's own strategies, seeing nothing else.

Why it exists: FedAvg, FedAvgM, FedAdam, FedYogi and FedAdagrad exist, tested, in Flower. They
are given one reply, which holds the round's model plus the mean update, so they work alike
over a secure sum; their moments are kept in the study's checkpoint.

Rules:
    * A strategy sees one aggregated reply and never a site's.
    * What a strategy remembers is read and restored around each round, so a resumed study has the same bits.

What it does not do: sample sites, aggregate, or consolidate.

Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021; Hsu et al. 2019 for FedAvgM.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from numpy.typing import NDArray

from fedmed.errors import ProtocolError
from fedmed.records import OptimiserKind, OptimiserSpec

Vector = NDArray[np.float64]
_KEY: Final = "model"


def apply_mean(
    spec: OptimiserSpec, model: Vector, mean: Vector, *, number: int, moments: Mapping[str, Vector]
) -> tuple[Vector, dict[str, Vector]]:
    """Return the next model and the moments to keep.

    Args:
        spec: Which optimiser and how.
        model: The round's model, shape `[size]`.
        mean: The mean update, shape `[size]`.
        number: The round, from 0.
        moments: What the last round returned; empty before the first.

    Raises:
        ProtocolError: The strategy returned no model.
    """
    if spec.kind == "fedavg" and spec.learning_rate == 1.0:
        return model + mean, {}
    strategy = _STRATEGIES[spec.kind](spec)
    _restore(strategy, model, moments)
    arrays = ArrayRecord({_KEY: Array(np.ascontiguousarray(model + mean))})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    reply = Message(content, dst_node_id=1, message_type="train")
    record, _ = strategy.aggregate_train(number + 1, [reply])
    if record is None:
        raise ProtocolError(f"{spec.kind}: expected a model of the strategy, got none")
    return record[_KEY].numpy().astype(np.float64), _moments(strategy)


def _adaptive(kind: Callable[..., FedAvg]) -> Callable[[OptimiserSpec], FedAvg]:
    return lambda spec: kind(eta=spec.learning_rate, eta_l=1.0, beta_1=spec.beta_1, beta_2=spec.beta_2, tau=spec.tau)


def _momentum(spec: OptimiserSpec) -> FedAvg:
    return FedAvgM(server_learning_rate=spec.learning_rate, server_momentum=spec.beta_1)


_STRATEGIES: Final[dict[OptimiserKind, Callable[[OptimiserSpec], FedAvg]]] = {
    "fedavg": lambda spec: FedAvgM(server_learning_rate=spec.learning_rate, server_momentum=0.0),
    "fedavgm": _momentum,
    "fedadam": _adaptive(FedAdam),
    "fedyogi": _adaptive(FedYogi),
    "fedadagrad": lambda spec: FedAdagrad(eta=spec.learning_rate, eta_l=1.0, tau=spec.tau),
}


def _restore(strategy: Any, model: Vector, moments: Mapping[str, Vector]) -> None:
    """Put the model and the moments where the strategy keeps them."""
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = ArrayRecord({_KEY: Array(np.ascontiguousarray(model))})
        strategy.momentum_vector = [moments["m"]] if "m" in moments else None
        return
    strategy.current_arrays = {_KEY: model}
    strategy.m_t = {_KEY: moments["m"]} if "m" in moments else None
    strategy.v_t = {_KEY: moments["v"]} if "v" in moments else None


def _moments(strategy: Any) -> dict[str, Vector]:
    if isinstance(strategy, FedAvgM):
        kept = strategy.momentum_vector
        return {} if kept is None else {"m": np.asarray(kept[0], dtype=np.float64)}
    return {"m": np.asarray(strategy.m_t[_KEY]), "v": np.asarray(strategy.v_t[_KEY])}
