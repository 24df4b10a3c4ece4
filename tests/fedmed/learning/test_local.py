"""One site's part of an exchange: an update, an evaluation, and bounded sums that can be released."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from torch import nn

from fedmed.data.source import Cohort
from fedmed.errors import DataError, ModelError
from fedmed.learning.local import (
    evaluate,
    fisher_sum,
    statistics_from_sum,
    statistics_scale,
    statistics_sum,
    train_locally,
)
from fedmed.models import Architecture, Layout, attach_adapter, build_module
from fedmed.privacy.noise import SeededNoise
from fedmed.records import ContinualSpec, Family, ModelSpec, PrivacySpec, TrainingSpec

OPEN = PrivacySpec(trust_model="none")
PRIVATE = PrivacySpec(
    trust_model="local", epsilon=8.0, clip_norm=1.0, noise_multiplier=1.0, release_noise_multiplier=2.0
)
TRAINING = TrainingSpec(rounds=1, local_steps=3, sample_rate=0.5, learning_rate=0.5)
CONTINUAL = ContinualSpec(strength=0.0, release_fisher=True, fisher_clip_norm=1e6)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one core."""
    torch.set_num_threads(1)


def cohort(records: int, *, seed: int = 0, features: int = 4) -> Cohort:
    """Return records whose label follows from the first feature."""
    values = np.random.default_rng(seed).normal(size=(records, features)).clip(-4, 4).astype(np.float32)
    return of(values, (values[:, 0] > 0).astype(np.int64))


def of(values: np.ndarray, labels: Any) -> Cohort:
    """Return a cohort of these features and labels."""
    return Cohort(
        features=values.astype(np.float32),
        labels=np.asarray(labels, dtype=np.int64),
        feature_names=tuple(f"x{i}" for i in range(values.shape[1])),
        classes=("no", "yes"),
    )


def module_of(family: Any, adapter: Any = "full", classes: int = 2) -> nn.Module:
    """Return a small module ready for training."""
    spec = ModelSpec(family=family, adapter=adapter, width=8, depth=1, heads=2, lora_rank=2)
    base = Architecture.of(spec, features=4, classes=classes)
    return attach_adapter(build_module(base, seed=0), spec, seed=0)


def start_of(module: nn.Module) -> np.ndarray:
    """Return the module's own trainable part."""
    return Layout.of(module).read(module)


def update(module: nn.Module, data: Cohort, privacy: PrivacySpec, key: bytes = b"a", **training: Any) -> np.ndarray:
    """Train from a start away from zero and return the update."""
    start = start_of(module)
    drawn = np.random.default_rng(5).normal(scale=0.3, size=start.shape).astype(np.float32)
    return train_locally(
        module,
        start + drawn,
        data,
        training=replace(TRAINING, **training),
        privacy=privacy,
        noise=SeededNoise(key),
    ).delta


@pytest.mark.parametrize(
    ("family", "adapter"), [*((f, "full") for f in get_args(Family)), ("tabular-transformer", "lora")]
)
def test_without_clip_and_noise_private_training_is_plain_training(family: str, adapter: str):
    """Switching privacy off changes clip and noise and nothing else: the same samples, the same steps."""
    loose = replace(PRIVATE, clip_norm=1e3, noise_multiplier=1e-9)
    plain, private = (
        update(module_of(family, adapter), cohort(20), privacy, momentum=0.5) for privacy in (OPEN, loose)
    )
    assert np.linalg.norm(plain) > 1e-3
    assert np.allclose(plain, private, atol=1e-4)


def test_clip_and_noise_change_an_update():
    """The clip norm bounds what is learnt, and the noise multiplier what is seen of it."""
    plain = update(module_of("linear"), cohort(20), OPEN)
    clipped = update(module_of("linear"), cohort(20), replace(PRIVATE, clip_norm=1e-3, noise_multiplier=1e-6))
    noised = update(module_of("linear"), cohort(20), PRIVATE)
    assert np.linalg.norm(clipped) < 1e-2 * np.linalg.norm(plain)
    assert not np.allclose(noised, plain, atol=1e-2)


def test_an_update_is_the_difference_from_the_rounds_model():
    """What a site sends, added to what it was sent, is what it has now; its own earlier state doesn't matter."""
    module = module_of("mlp")
    layout = Layout.of(module)
    start = np.random.default_rng(1).normal(size=layout.size).astype(np.float32)
    first = train_locally(module, start, cohort(20), training=TRAINING, privacy=OPEN, noise=SeededNoise(b"a"))
    assert np.allclose(start + first.delta, layout.read(module), atol=1e-6)
    again = train_locally(module, start, cohort(20), training=TRAINING, privacy=OPEN, noise=SeededNoise(b"a"))
    assert np.array_equal(first.delta, again.delta)


def test_the_noise_source_decides_what_is_drawn():
    """Two sites never share noise or samples, although they share everything else."""
    for privacy in (OPEN, PRIVATE):
        one, other = (update(module_of("linear"), cohort(20), privacy, key) for key in (b"a", b"b"))
        assert not np.allclose(one, other)


def test_training_learns():
    """The loss on held-out records falls and the accuracy is far above chance."""
    module = module_of("linear")
    start = start_of(module)
    before = evaluate(module, start, cohort(200, seed=9))
    training = replace(TRAINING, local_steps=30)
    found = train_locally(module, start, cohort(200), training=training, privacy=OPEN, noise=SeededNoise(b"a"))
    after = evaluate(module, start + found.delta, cohort(200, seed=9))
    assert after.loss < before.loss / 2
    assert after.accuracy > 0.9


def test_a_model_that_is_not_finite_is_not_trained_on():
    """A coordinator can't make a site compute with a broken model."""
    module = module_of("linear")
    with pytest.raises(ModelError, match="finite"):
        train_locally(
            module,
            np.full(5, np.nan, dtype=np.float32),
            cohort(20),
            training=TRAINING,
            privacy=OPEN,
            noise=SeededNoise(b"a"),
        )


def test_an_evaluation_counts_records_mistakes_and_loss():
    """Accuracy, mean cross-entropy and scores are those of the model on exactly these records."""
    data = of(np.array([[3.0, 0, 0, 0], [-3, 0, 0, 0], [3, 0, 0, 0]]), [1, 0, 0])
    found = evaluate(module_of("linear"), np.array([1, 0, 0, 0, 0], dtype=np.float32), data)
    p = 1 / (1 + np.exp(-3))
    assert (found.records, found.correct) == (3, 2)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(-(2 * np.log(p) + np.log(1 - p)) / 3, rel=1e-5)
    assert np.allclose(found.scores, [[1 - p, p], [p, 1 - p], [1 - p, p]], atol=1e-6)
    assert found.labels.tolist() == [1, 0, 0]


def test_an_evaluation_works_for_more_than_two_classes():
    """The class with the highest score is the prediction."""
    model = np.zeros(15, dtype=np.float32)
    model[12:] = [0, 1, 2]  # biases
    found = evaluate(module_of("linear", classes=3), model, of(np.zeros((3, 4)), [0, 2, 2]))
    assert (found.correct, found.scores.shape) == (2, (3, 3))
    assert np.allclose(found.scores.sum(1), 1)


@pytest.mark.parametrize("split", ["train", "evaluate", "fisher"])
def test_no_records_are_refused_with_what_to_check(split: str):
    """An empty view is a mistake in cohort or split, and the message says so."""
    module, empty = module_of("linear"), cohort(0)
    start = start_of(module)
    calls: dict[str, Any] = {
        "train": lambda: train_locally(
            module, start, empty, training=TRAINING, privacy=PRIVATE, noise=SeededNoise(b"a")
        ),
        "evaluate": lambda: evaluate(module, start, empty),
        "fisher": lambda: fisher_sum(
            module, start, empty, continual=CONTINUAL, privacy=PRIVATE, noise=SeededNoise(b"a")
        ),
    }
    with pytest.raises(DataError, match="check the cohort filter and the split"):
        calls[split]()


def fisher(data: Cohort, model: np.ndarray, privacy: PrivacySpec = OPEN, clip_norm: float = 1e6) -> np.ndarray:
    """Return the Fisher sum of a linear model."""
    continual = replace(CONTINUAL, fisher_clip_norm=clip_norm)
    return fisher_sum(
        module_of("linear"), model, data, continual=continual, privacy=privacy, noise=SeededNoise(b"fisher")
    )


def test_fisher_is_the_sum_of_squared_gradients():
    """For logistic regression: the squared residual times the squared input, and times one for the bias."""
    data = cohort(30)
    model = np.array([1.0, -0.5, 0, 2, 0.3], dtype=np.float32)
    inputs = np.hstack([data.features, np.ones((30, 1))])
    residual = 1 / (1 + np.exp(-inputs @ model)) - data.labels
    assert np.allclose(fisher(data, model), (residual[:, None] ** 2 * inputs**2).sum(0), rtol=1e-4)


@pytest.mark.parametrize("family", get_args(Family))
def test_fisher_is_never_negative_without_noise(family: str):
    """It is a sum of squares, in every architecture, and of the size of the model."""
    module = module_of(family)
    found = fisher_sum(module, start_of(module), cohort(20), continual=CONTINUAL, privacy=OPEN, noise=SeededNoise(b"a"))
    assert found.shape == (Layout.of(module).size,)
    assert bool((found >= 0).all())
    assert found.sum() > 0


@given(st.floats(1e-3, 10), st.integers(0, 9), st.floats(-4, 4, width=32))
@settings(max_examples=20, deadline=None)
def test_one_record_moves_the_fisher_sum_by_at_most_the_clip_norm(clip_norm: float, row: int, value: float):
    """Adding or removing a patient, whoever it is, is hidden by the noise that is charged."""
    data = cohort(10)
    data.features[row] = value
    model = np.full(5, 3.0, dtype=np.float32)
    rest = of(np.delete(data.features, row, axis=0), np.delete(data.labels, row))
    moved = fisher(data, model, clip_norm=clip_norm) - fisher(rest, model, clip_norm=clip_norm)
    assert np.linalg.norm(moved) <= clip_norm * (1 + 1e-9)


def test_releases_are_noised_at_the_release_multiplier_only_when_private():
    """Fisher sums and statistics carry noise of multiplier times clip norm; without privacy they are exact."""
    model = np.full(5, 3.0, dtype=np.float32)
    draws = SeededNoise(b"fisher").normal(5)
    noised = fisher(cohort(10), model, PRIVATE, clip_norm=0.5) - fisher(cohort(10), model, clip_norm=0.5)
    assert np.allclose(noised, PRIVATE.release_noise_multiplier * 0.5 * draws)
    statistics = [
        statistics_sum(cohort(10), privacy=privacy, noise=SeededNoise(b"fisher")) for privacy in (PRIVATE, OPEN)
    ]
    draws = SeededNoise(b"fisher").normal(9)
    scaled = (statistics[0] - statistics[1]) * statistics_scale(4)
    assert np.allclose(scaled, PRIVATE.release_noise_multiplier * draws)


@given(
    st_numpy.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.floats(-4, 4, width=32))
)
def test_statistics_recover_mean_and_standard_deviation(values: np.ndarray):
    """Of values clipped at 4, summed over any split into sites; the scale is bounded away from zero."""
    middle = len(values) // 2
    parts = [of(part, np.zeros(len(part))) for part in (values[:middle], values[middle:])]
    total = np.sum([statistics_sum(part, privacy=OPEN, noise=SeededNoise(b"a")) for part in parts], axis=0)
    mean, scale = statistics_from_sum(total)
    assert (mean.dtype, scale.dtype) == (np.float32, np.float32)
    assert np.allclose(mean, values.mean(0, dtype=np.float64), atol=1e-5)
    assert np.allclose(scale, np.maximum(values.std(0, dtype=np.float64), 0.05), atol=1e-3)


@given(
    st_numpy.arrays(np.float32, st.tuples(st.just(1), st.integers(1, 8)), elements=st.floats(-4, 4, width=32)),
)
def test_one_record_moves_the_statistics_by_at_most_the_noises_unit(values: np.ndarray):
    """A record's row has norm one or less after scaling, so nothing in range is clipped, and noise covers all of it."""
    total = statistics_sum(of(values, [0]), privacy=OPEN, noise=SeededNoise(b"a"))
    assert np.linalg.norm(total * statistics_scale(values.shape[1])) <= 1
    assert total[-1] == pytest.approx(1)


def test_values_out_of_range_move_the_statistics_no_more():
    """A patient that no clipping has seen is still bounded."""
    total = statistics_sum(of(np.full((1, 3), 1e6), [0]), privacy=OPEN, noise=SeededNoise(b"a"))
    assert np.linalg.norm(total * statistics_scale(3)) <= 1


@given(st_numpy.arrays(np.float64, st.integers(1, 5).map(lambda d: 2 * d + 1), elements=st.floats(-1e9, 1e9)))
def test_statistics_of_pure_noise_can_still_be_used(total: np.ndarray):
    """Whatever the noise did to a small site's sums, its features are standardised by finite numbers in range."""
    mean, scale = statistics_from_sum(total)
    assert mean.shape == scale.shape == ((len(total) - 1) // 2,)
    assert bool((np.abs(mean) <= 4).all())
    assert bool((scale >= 0.049).all())
    assert bool((scale <= 4).all())
