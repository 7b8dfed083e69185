"""Each rule speaks of its illness, once an episode, with settings that the config takes; of a healthy run none does."""

import re

import numpy as np
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.errors import UserError
from jaxgen.runs.watch import Watch

RNG = np.random.default_rng(0)
WAVE = RNG.normal(0, 0.05, 40)
HEALTHY = {
    "d_loss_real": 0.6 + WAVE, "d_loss_fake": 0.6 - WAVE, "r_t": 0.5 + WAVE, "spread": 1 - 0.95 * 0.5 ** np.arange(40),
    "d_fake": -0.5 + 4 * WAVE, "augment_p": np.linspace(0, 0.6, 40),
}  # fmt: skip
FIDS = 9 * 0.9 ** np.arange(40)
SICK = {
    "disc_wins": {"d_loss_real": [*[0.3] * 20, *[0.02] * 20], "d_loss_fake": [*[0.3] * 20, *[0.01] * 20]},
    "by_heart": {"r_t": np.linspace(0.2, 1.0, 40)},
    "augment_full": {"augment_p": np.minimum(np.linspace(0, 1.5, 40), 1)},
    "collapse": {"spread": np.linspace(1.0, 0.1, 40)},
    "swing": {"d_fake": 0.1 * 1.1 ** np.arange(40) * (-1.0) ** (np.arange(40) // 2)},
    "past_best": {"fid": [*FIDS[:15], *(FIDS[14] * 1.02 ** np.arange(25))]},
}


def config(name="ada_digits", **changes):
    return configs.override(configs.load(f"{ROOT}/configs/{name}.py:tiny"), changes)


def heard(watch, series, start=0):
    """What is said, as (step, text), when these figures are logged."""
    told = []
    for i in range(start, 40):
        record = {f"train/{k}": v[i] for k, v in series.items() if k != "fid"}
        told += [(i, text) for text in watch(100 * (i + 1), record)]
        if "fid" in series:
            told += [(i, text) for text in watch(100 * (i + 1), {"eval/fid@500:native": series["fid"][i]})]
    return told


def settings(rule):
    return {"method.augment": "none"} if rule == "by_heart" else {}


@pytest.mark.parametrize("rule", configs.WATCH)
def test_a_rule_speaks_once_of_its_illness_and_names_settings_that_there_are(rule):
    sick = config(**settings(rule))
    told = heard(Watch(sick), {**HEALTHY, "fid": FIDS, **SICK[rule]})
    assert len(told) == 1, told
    text = told[0][1]
    assert "\n" not in text
    ways = re.findall(r"--config\.([\w.]+)=(\([^)]*\)|[^\s,;\"]+)", text)
    assert ways or "--mode=sample --step=1500" in text or "--step=2" in text
    for key, value in ways:
        assert configs.differences(sick, configs.override(sick, {key: value})), (key, value)


@pytest.mark.parametrize("augment", ["none", "ada"])
def test_a_healthy_run_is_left_in_peace(augment):
    assert heard(Watch(config(**{"method.augment": augment})), {**HEALTHY, "fid": FIDS}) == []


def test_a_new_episode_is_told_again_and_a_resumed_run_says_nothing_twice():
    low = {"spread": [1.0] * 5 + [0.1] * 10 + [1.0] * 5 + [0.1] * 20}
    assert [i for i, _ in heard(Watch(config()), low)] == [7, 22]
    for at, later in ((9, [22]), (6, [7, 22]), (30, [])):
        watch = Watch(config())
        watch.recall({"step": 100 * (i + 1), "train/spread": low["spread"][i]} for i in range(at))
        assert [i for i, _ in heard(watch, low, at)] == later


def test_a_generator_has_time_to_become_varied():
    assert [i for i, _ in heard(Watch(config()), {"spread": [0.05] * 40})] == [19]
    assert heard(Watch(config()), {"spread": [0.05] * 15 + [0.9] * 25}) == []


def test_where_a_logit_of_0_means_nothing_nothing_is_made_of_it():
    """Critics of a distance and least squares have no toss-up at 0, and a distance no floor."""
    series = {k: v for name in ("disc_wins", "by_heart", "swing") for k, v in SICK[name].items()}
    assert heard(Watch(config(**{"method.loss": "wasserstein", "method.augment": "none"})), series) == []
    assert len(heard(Watch(config(**{"method.loss": "least_squares", "method.augment": "none"})), series)) == 1


def test_what_is_called_real_among_held_out_images_is_not_known_by_heart():
    watch = Watch(config(**{"method.augment": "none"}))
    watch.recall([{"step": 1, "eval/d_real": 0.4}])
    assert heard(watch, SICK["by_heart"]) == []


def test_rules_are_chosen_and_turned_off_and_other_methods_have_few():
    chosen = Watch(config(watch=({"name": "collapse", "below": 0.5}, "swing")))
    assert [type(rule).__name__ for rule in chosen.rules] == ["Collapse", "Swing"] and chosen.rules[0].below == 0.5
    assert heard(Watch(config(watch=())), SICK["collapse"]) == [] and not Watch(config(watch=())).past
    assert [type(rule).__name__ for rule in Watch(config("vae_digits")).rules] == ["PastBest"]
    with pytest.raises(UserError, match=r"config.watch\[0\].name='colapse' is unknown; did you mean 'collapse'"):
        Watch(config(watch=("colapse",)))


def test_the_best_checkpoint_is_one_that_was_written():
    """The nearest to the best step, never that of step 0; where none is there yet, how to have it."""
    for every, wanted in (
        (500, "--step=1500"),
        (1000, "--step=1000"),
        (400, "--step=1600"),
        (9000, "--config.save_every=1500"),
    ):
        ((_, text),) = heard(Watch(config(watch=("past_best",), save_every=every)), SICK["past_best"])
        assert wanted in text and "--step=0" not in text
