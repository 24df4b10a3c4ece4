"""Small valid plans for tests of what a site decides about them."""

from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
)

PRIVATE = PrivacySpec(trust_model="local", epsilon=2.0, delta=1e-5, noise_multiplier=1.0, release_noise_multiplier=3.0)


def plan_of(study: str) -> Plan:
    """Return a private plan of a study."""
    return Plan(
        study=study,
        seed=0,
        data=DataSpec(schema="heart", schema_digest="0" * 64, target="ill"),
        model=ModelSpec(family="linear", adapter="full"),
        base_digest="1" * 64,
        training=TrainingSpec(rounds=3, local_steps=2, sample_rate=1.0, learning_rate=1.0),
        privacy=PRIVATE,
        aggregation=AggregationSpec(kind="secure"),
        continual=ContinualSpec(strength=0.0, release_fisher=False),
    )
