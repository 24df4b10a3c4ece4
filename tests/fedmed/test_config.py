"""Behaviour of the configuration: what it composes, and what it says to a mistake."""

from pathlib import Path

import pytest

from fedmed import config
from fedmed.errors import ConfigError, UsageError
from fedmed_sim.settings import SimulationSettings


def test_the_default_is_two_private_studies_with_an_adapter() -> None:
    """Without any override the run is the product's true path: LoRA, differential privacy, two studies."""
    settings = config.compose(SimulationSettings, [])
    assert settings.model.adapter == "lora"
    assert settings.privacy.private
    assert settings.privacy.noise == "system"
    assert len(settings.scenario.studies) == 2


def test_the_scenario_follows_the_data() -> None:
    """Choosing a data set chooses studies that it has."""
    settings = config.compose(SimulationSettings, ["data=heart_disease", "data.root=/somewhere"])
    assert [study.target for study in settings.scenario.studies] == ["heart_disease"]


def test_an_experiment_sets_what_the_defaults_set_and_the_command_line_sets_it_anew() -> None:
    """`make consortium` runs real processes because its experiment says so; a word on the command line wins."""
    assert config.compose(SimulationSettings, ["experiment=consortium"]).engine == "processes"
    assert config.compose(SimulationSettings, ["experiment=consortium", "engine=inprocess"]).engine == "inprocess"


def test_privacy_off_is_a_group_option_not_a_boolean() -> None:
    """`privacy=off` on the command line is the option of that name, whatever YAML thinks of the word."""
    assert not config.compose(SimulationSettings, ["privacy=off"]).privacy.private


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=nope"], "experiment: there is no option 'nope'; it takes one of: consortium, heart"),
        (["privacy.epsilon=-1"], r"privacy\.epsilon must be above 0, got -1\.0; use privacy=off"),
        (["privacy.epsilon=abc"], r"privacy\.epsilon: expected float or null, got 'abc'"),
        (["privacy.foo=1"], r"privacy\.foo: unknown key; expected one of: clip_norm, delta"),
        (["+privacy.foo=1"], r"privacy\.foo: unknown key; expected one of: clip_norm, delta"),
        (["modle=linear"], "modle: unknown key; expected one of: data, engine, model"),
        (["plan.rounds=0"], r"plan\.rounds must be at least 1, got 0"),
        (["plan.rounds=2.5"], r"plan\.rounds: expected int, got 2\.5"),
        (["plan.rounds=[1"], r"plan\.rounds=\[1: expected key=value"),
        (["engine=slurm"], "engine: expected one of: ray, inprocess, processes; got 'slurm'"),
        (["model=linear", "model.adapter=lora"], "adapter=lora needs attention to adapt"),
        (["privacy=off", "privacy.epsilon=3"], r"privacy\.epsilon must be null with privacy=off"),
        (
            ["scenario.studies=[{name: a, target: readmitted_30d, cohort: [cardiology]}]"],
            "cohort and cohort_column are set together",
        ),
        (["scenario.studies=[]"], r"scenario\.studies must name at least one study"),
    ],
)
def test_a_mistake_names_the_key_what_came_and_what_it_takes(overrides: list[str], message: str) -> None:
    """An administrator who reads only the message knows what to type instead."""
    with pytest.raises(ConfigError, match=message) as caught:
        config.compose(SimulationSettings, overrides)
    assert "\n" not in str(caught.value)


def test_a_saved_configuration_is_read_back_equal(tmp_path: Path) -> None:
    """A run's `config.yaml` builds the record that was run."""
    import msgspec  # noqa: PLC0415  only this test turns records into plain data

    settings = config.compose(SimulationSettings, ["privacy.epsilon=1", "seed=4"])
    config.save(tmp_path / "config.yaml", msgspec.to_builtins(settings))
    assert config.load(SimulationSettings, tmp_path / "config.yaml") == settings


def test_a_folder_without_configuration_is_refused_with_its_path(tmp_path: Path) -> None:
    """Resuming from a wrong path says which file was expected."""
    with pytest.raises(UsageError, match=r"expected a configuration in .*config\.yaml, found none"):
        config.load(SimulationSettings, tmp_path / "config.yaml")


def test_a_sweep_is_checked_before_its_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the last combination of a sweep stops it before anything is run or written."""
    monkeypatch.chdir(tmp_path)
    started: list[SimulationSettings] = []
    with pytest.raises(ConfigError, match="got -1"):
        config.run_command(
            SimulationSettings, ["-m", "privacy.epsilon=3,-1"], lambda settings, _folder: started.append(settings)
        )
    assert not started
    assert not list(tmp_path.iterdir())


def test_a_sweep_runs_every_combination_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m` may stand anywhere on the command line; each job gets its record and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    jobs: list[tuple[int, float | None, Path | None]] = []
    config.run_command(
        SimulationSettings,
        ["seed=0,1", "-m", "privacy.epsilon=1,3"],
        lambda settings, folder: jobs.append((settings.seed, settings.privacy.epsilon, folder)),
    )
    assert [(seed, epsilon) for seed, epsilon, _ in jobs] == [(0, 1.0), (0, 3.0), (1, 1.0), (1, 3.0)]
    assert len({folder for _, _, folder in jobs}) == 4


def test_cfg_job_prints_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`--cfg job` shows the composed configuration without starting a run."""
    config.run_command(SimulationSettings, ["--cfg", "job", "seed=5"], lambda *_: pytest.fail("ran"))
    assert "seed: 5" in capsys.readouterr().out
