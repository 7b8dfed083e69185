"""Tools of latents on untrained runs: what they make is that of the samples themselves."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from cases import ROOT, untrained
from PIL import Image

from jaxgen import main
from jaxgen.config import files as configs
from jaxgen.core.method import HasLatent, HasStyles
from jaxgen.errors import UserError
from jaxgen.images import save_png, to_uint8
from jaxgen.latents import project, tools
from jaxgen.latents.space import Space
from jaxgen.latents.verb import build, explained, latents
from jaxgen.runs.experiment import open_source
from jaxgen.runs.trained import Trained

CHANGES = {
    "dcgan_digits": {"data.labels": True},
    "unlabelled": {"data.labels": False},
    "vae_digits": {},
    "lapgan_digits": {},
    "ddpm_digits": {"method.solver": "ddim", "method.solver.steps": 3, "method.solver.eta": 0.0},
    "stylegan2_digits": {"method.gen.noise": "const"},  # random noise is no part of a latent
    "classifier_digits": {},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """name -> the directory of an untrained run on one device."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name):
        file = "dcgan_digits" if name == "unlabelled" else name
        config = configs.load(f"{ROOT}/configs/{file}.py:tiny")
        config = configs.override(config, {**CHANGES[name], "mesh": {"data": 1}, "data.batch": 8})
        return untrained(config, open_source(config, "train").spec, folder, True)

    return {name: run(name) for name in CHANGES}


def opened(path, name="", seed=0, changes=None, labels=()):
    trained = Trained.open(path, changes=changes)
    (choice,) = trained.choose(["ema"])
    return Space.open(trained, choice.weights(), name, seed, trained.asked(labels), "")


def sampled(space, num, seed=0):
    return np.concatenate([made.images for made in space.exp.samples(space.weights, num, seed, space.asked)])


def floats(space, points):
    return space._run(space.name[0], points, space.picture)


SPACES = [("dcgan_digits", "z"), ("unlabelled", "z"), ("vae_digits", "z"), ("lapgan_digits", "z"), ("ddpm_digits", "z"),
          ("stylegan2_digits", "z"), ("stylegan2_digits", "w"), ("stylegan2_digits", "w+")]  # fmt: skip


@pytest.mark.parametrize("name, where", SPACES)
def test_the_ends_of_a_way_are_the_samples_bit_for_bit(runs, name, where):
    space = opened(runs[name], where, seed=3)
    made = sampled(space, 11, seed=3)  # two batches
    points, other = space.points("10,0,3:7,4:2", ""), sampled(space, 8, seed=4)
    wanted = np.stack([made[10], made[0], made[7], other[2]])
    assert (space.render(points) == to_uint8(wanted)).all()
    assert np.abs(floats(space, points) - wanted).max() < (
        1e-5 if name == "stylegan2_digits" else 1e-30
    )  # as XLA fuses

    found = tools.Interpolate(pictures="0,9,4:2", frames=5, space=where)(space)
    rows = found.images[""].reshape(2, 5, *made.shape[1:])
    ends = space.render(space.points("0,9,4:2", ""))
    assert (rows[:, 0] == ends[:2]).all() and (rows[:, -1] == ends[1:]).all() and len(found.frames) == 9
    assert len(np.unique(rows.reshape(10, -1), axis=0)) == 9  # the middle end is there twice, all else differs


def test_truncated_samples_are_those_of_truncated_latents(runs):
    changes = {"method.truncate": "style", "method.truncate.psi": 0.3, "method.truncate.cutoff": 2.0}
    z, w = (opened(runs["stylegan2_digits"], name, changes=changes) for name in ("z", "w"))
    assert (z.render(z.points("1,2", "")) == w.render(w.points("1,2", ""))).all()
    assert (z.render(z.points("1,2", "")) == to_uint8(sampled(z, 8)[1:3])).all()
    whole = opened(runs["stylegan2_digits"], "w").points("1,2", "").latents
    mine = w.points("1,2", "").latents
    assert np.allclose(mine[:, :2], 0.3 * whole[:, :2], atol=1e-6)  # the mean of w is 0 before training
    assert (mine[:, 2:] == whole[:, 2:]).all()


def test_psi_0_is_one_picture_per_label(runs):
    found = tools.Truncate(psi=(0.0, 1.0), shown=24)(opened(runs["stylegan2_digits"], "w"))
    none, all_of = found.images[""].reshape(2, 24, -1)
    for label in range(10):
        assert (none[label::10] == none[label]).all()
        assert len(np.unique(all_of[label::10], axis=0)) == len(all_of[label::10])


def test_a_minus_a_plus_c_is_c(runs):
    for name, where in SPACES:
        space = opened(runs[name], where)
        found = tools.Arithmetic(formula="1,4 - 1,4 + 6", space=where)(space)
        key = "w" if space.styled else "z"
        assert (found.arrays[key] == space.points("6", "").latents).all()
        assert (found.images[""][-1] == space.render(space.points("6", ""))[0]).all()
        assert found.captions == ("1,4", "- 1,4", "+ 6", "=")


def test_a_label_is_the_mean_of_its_samples(runs):
    space = opened(runs["stylegan2_digits"], "w")
    drawn = space.drawn(np.arange(30), 0)
    found = tools.Arithmetic(formula="label:3 + 0", num=30)(space)
    wanted = drawn.latents[drawn.cond["label"] == 3].astype(np.float64).mean(0) + drawn.latents[0]
    assert np.allclose(found.arrays["w"][0], wanted, atol=1e-6)


def test_mixed_styles_are_those_of_both_pictures(runs):
    space = opened(runs["stylegan2_digits"], "w")
    left, above = (space.render(space.points(text, "")) for text in ("0,1", "2,3,4"))
    for layers, wanted in ((f"0-{space.layers - 1}", above[None]), ("1", None)):
        grid = tools.Mix(rows="0,1", columns="2,3,4", layers=layers)(space).images[""].reshape(3, 4, 8, 8, 1)
        assert (grid[0, 0] == 255).all() and (grid[0, 1:] == above).all() and (grid[1:, 0] == left).all()
        if wanted is not None:
            assert (grid[1:, 1:] == wanted).all()
    mixed = space.points("0", "")
    mixed.latents[:, 1] = space.points("3", "").latents[:, 1]
    assert (grid[1, 2] == space.render(mixed)[0]).all()


@pytest.mark.parametrize("name, where", [("vae_digits", "z"), ("stylegan2_digits", "w")])
def test_ink_grows_along_its_direction(runs, name, where):
    space = opened(runs[name], where)
    found = tools.Directions(to="ink", num=200, walked=10, shown=2, space=where)(space)
    assert found.scalars["ink_r2"] > 0.5 and found.scalars["ink_rank_correlation"] > 0.9
    assert found.scalars["ink_at_most"] > found.scalars["ink_at_least"]
    assert found.images["ink"].shape[0] == 14 and np.linalg.norm(found.arrays["ink"]) == pytest.approx(1)
    middle = found.images["ink"].reshape(2, 7, 8, 8, 1)[:, 3]
    assert (middle == space.render(space.points("0,1", ""))).all()  # a walk goes through the sample


QUICK = dict(iterations=300, draws=200, frames=3)


@pytest.mark.parametrize("name, where", [("vae_digits", "z"), ("stylegan2_digits", "w"), ("stylegan2_digits", "w+")])
def test_a_picture_that_a_net_made_is_found_again(runs, name, where):
    space, act = opened(runs[name], where), project.Project(space=where, **QUICK)
    points = space.points("0,1", "")
    wanted = floats(space, points)
    see, frozen = act._distance(space, wanted)
    found = act._projected(space, see, frozen, wanted, points.cond)
    assert (found["distance"] < 0.02 * wanted.var((1, 2, 3))).all()
    assert found["latents"].shape == (2, *space.flat) and found["way"].shape == (3, *found["images"].shape)
    errors = np.abs(found["way"].astype(float) - to_uint8(wanted)).mean((1, 2, 3, 4))
    assert errors[-1] < 0.5 * errors[0]


def test_what_is_drawn_and_kept_of_a_projection(runs, tmp_path):
    space = opened(runs["vae_digits"])
    save_png(tmp_path / "a.png", space.render(space.points("0", ""))[0])
    save_png(tmp_path / "b.png", space.render(space.points("1", ""))[0])
    found = project.Project(images=str(tmp_path), **QUICK)(space)
    given = space.render(space.points("0,1", ""))
    assert (found.images[""][0::2] == given).all() and (found.images[""][1::2] == found.arrays["images"]).all()
    error = np.sqrt(np.square((given.astype(float) - found.arrays["images"]) / 255).mean((1, 2, 3))).mean()
    assert (
        found.scalars["error"] == pytest.approx(error)
        and error < 0.1 * found.scalars["error_of_nearest_training_picture"]
    )
    assert len(found.frames) == 13 and (found.frames[-1] == found.images[""]).all()


def test_labels_are_estimated_by_the_nearest_draw(runs, tmp_path):
    space = opened(runs["stylegan2_digits"], "w")
    image = space.render(space.points("7", ""))[0]  # its label is 7
    save_png(tmp_path / "x.png", image)
    act = project.Project(images=str(tmp_path / "x.png"), labels="estimated", **{**QUICK, "iterations": 1})
    assert act(space).arrays["labels"].tolist() == [7]
    with pytest.raises(UserError, match=r"is told labels, and .*x.png says none; give --labels=A,B"):
        replace(act, labels="given")(space)
    assert replace(act, labels="given")(opened(runs["stylegan2_digits"], "w", labels=("2",))).arrays[
        "labels"
    ].tolist() == [2]


def test_noise_maps_are_each_picture_s_own_and_white_ones_cost_nothing():
    rng = np.random.default_rng(0)
    white = project.standardised(np.asarray(rng.normal(size=(2, 64, 64)), np.float32))
    smooth = project.standardised(np.cumsum(white, 1))
    assert project.coloured({"a": white}) < 0.01 < 0.5 < project.coloured({"a": smooth})
    assert np.allclose(white.mean((1, 2)), 0, atol=1e-6) and np.allclose((white**2).mean((1, 2)), 1, atol=1e-4)


def test_maps_reach_the_net(runs):
    space = opened(runs["stylegan2_digits"], "w")
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1.0 if "noise_strength" in jax.tree_util.keystr(path) else x,
        space.weights.nets["gen"]["params"],
    )
    w = space.weights.replace(nets={**space.weights.nets, "gen": {**space.weights.nets["gen"], "params": params}})
    styles = space.points("0,0", "").latents
    maps = project.random_maps(w, 2, jax.random.key(0))
    a, b = space.exp.method.from_styles(project.with_maps(w, maps), styles)
    assert np.abs(a - b).max() > 1e-3
    swapped = jax.tree.map(lambda x: x[::-1], maps)
    assert np.allclose(space.exp.method.from_styles(project.with_maps(w, swapped), styles), [b, a], atol=1e-5)


def test_a_label_needs_more_than_one_class(runs):
    with pytest.raises(UserError, match=r"--tool.to=label:3: all 40 samples are of one class.*raise --tool.num"):
        tools.Directions(to="label:3", num=40)(opened(runs["stylegan2_digits"], "w", labels=("3",)))
    found = tools.Directions(to="label:3", num=40, walked=2)(opened(runs["stylegan2_digits"], "w"))
    assert found.scalars.keys() == {"label:3_r2"}
    with pytest.raises(UserError, match="z says nothing of the label"):
        tools.Directions(to="label:3", num=40)(opened(runs["dcgan_digits"]))


def test_a_classifier_finds_the_labels_of_samples(runs):
    space, judge = opened(runs["unlabelled"]), runs["classifier_digits"]
    points = space.drawn(np.arange(60), 0)
    labels = tools.labels_of(space, points, space.render(points), judge)
    number = int(np.bincount(labels).argmax())
    found = tools.Arithmetic(formula=f"label:{number} + 0", native=judge, num=60)(space)
    assert np.allclose(found.arrays["z"][0], points.latents[labels == number].mean(0) + points.latents[0], atol=1e-5)


REFUSED = {
    "w of a net without": (
        "dcgan_digits",
        "interpolate",
        {"space": "w"},
        "no latent w, as StyleGAN2 has; set --tool.space=z",
    ),
    "mix": ("dcgan_digits", "mix", {}, "no latent w, as StyleGAN2 has; --tool=interpolate goes"),
    "truncate": ("vae_digits", "truncate", {}, "no latent w, as StyleGAN2 has; --config.method.truncate=latent"),
    "a run without latents": ("classifier_digits", "interpolate", {}, "makes its samples of no latent"),
    "one picture": ("vae_digits", "interpolate", {"pictures": "3"}, "must be two pictures at least"),
    "no number": (
        "vae_digits",
        "interpolate",
        {"pictures": "a,b"},
        "must be numbers of pictures, such as --tool.pictures=0,3,7:2",
    ),
    "no measure": ("vae_digits", "directions", {"to": "inc"}, "'inc' is unknown; did you mean 'ink'"),
    "no label": ("stylegan2_digits", "arithmetic", {"formula": "label:x + 0"}, "label:x is no label of this run"),
    "no key": (
        "vae_digits",
        "interpolate",
        {"frame": "3"},
        "--tool.frame is not a field of interpolate; did you mean 'frames'",
    ),
    "no tool": ("vae_digits", "interpolat", {}, "--tool.name='interpolat' is unknown; did you mean 'interpolate'"),
    "no classifier": ("vae_digits", "arithmetic", {"formula": "label:1 + 0"}, "needs a classifier of the data"),
    "a small picture for LPIPS": ("vae_digits", "project", {"distance": "lpips"}, "set --tool.distance=l2"),
}


def test_files_without_the_latents_of_this_run_are_refused(runs, tmp_path):
    space, file = opened(runs["vae_digits"]), tmp_path / "x.npz"
    file.write_bytes(b"no arrays")
    with pytest.raises(UserError, match=r"x.npz is no file of arrays; name one that --mode=latents wrote"):
        space.points(f"{file}:0", "")
    for held in ({"w": np.zeros((2, 3))}, {"z": np.zeros((2, 3))}, {"z": np.zeros((1, *space.flat))}):
        np.savez(file, **held)
        with pytest.raises(UserError, match=r"x.npz holds z of shape .* and number 1 of .* is asked for"):
            space.points(f"{file}:1", "")


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_told_in_one_line(runs, case):
    name, tool, given, told = case
    with pytest.raises(UserError) as refused:
        latents(runs[name], tool, given)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_a_picture_of_another_size_is_refused(runs, tmp_path):
    Image.new("L", (9, 7)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x.png is 9x7 pixels and the run makes 8x8; crop and scale"):
        latents(runs["vae_digits"], "project", {"images": str(tmp_path / "x.png")})


def test_the_command_line(runs, capsys):
    main.run(["--mode=latents"])
    listed = capsys.readouterr().out
    assert listed.strip() == explained().strip() and all(f"\n  {tool} " in "\n" + listed for tool in ("mix", "project"))
    path = [f"--workdir={runs['vae_digits']}", "--mode=latents"]
    main.run([*path, "--tool=interpolate", "--tool.pictures=0,1", "--tool.frames=3", "--seed=2"])
    main.run([*path, "--tool=project", "--tool.num=2", "--tool.iterations=3", "--tool.frames=2"])
    samples = Trained.open(runs["vae_digits"]).run.path / "samples"
    stem = "0000000_interpolate_seed2_pictures-0,1_frames-3"
    assert {p.name for p in samples.glob("*interpolate*")} == {f"{stem}.png", f"{stem}.gif"}
    with Image.open(samples / f"{stem}.gif") as film:
        assert film.n_frames == 3
    (kept,) = samples.glob("*project*.npz")
    with np.load(kept) as file:
        assert file["z"].shape[0] == 2
    main.run([*path, "--tool=interpolate", f"--tool.pictures={kept}:0,{kept}:1"])  # from one real picture to another
    assert "error" in (Trained.open(runs["vae_digits"]).run.path / "results.jsonl").read_text()
    for wrong, told in (
        ([*path[:1], "--mode=sample", "--tool.frames=3"], "--tool.frames is for --mode=latents, not for --mode=sample"),
        ([*path[:1], "--mode=sample", "--tool=mix"], "--tool is for --mode=latents, not for --mode=sample"),
        ([*path, "--tool=mix", "--num=3"], "--num is for --mode=sample and --mode=caption, not for --mode=latents"),
    ):
        with pytest.raises(UserError, match=told):
            main.run(wrong)


def test_keys_are_read_as_their_fields_want_them():
    assert build("truncate", {"psi": "0.5"}).psi == (0.5,) and build("truncate", {"psi": "0,1"}).psi == (0.0, 1.0)
    assert build("interpolate", {"pictures": "3,4", "frames": "4"}) == tools.Interpolate(pictures="3,4", frames=4)
    with pytest.raises(UserError, match=r"--tool.frames=1 must be at least 2"):
        build("interpolate", {"frames": "1"})


def test_programs_are_compiled_once(runs):
    space = opened(runs["stylegan2_digits"], "w")
    first = tools.Interpolate()(space)
    known = len(space.exp.shared), len(space.exp.compiled)
    assert (tools.Interpolate(pictures="5,6", frames=30)(space).images[""].shape[0], first.columns) == (30, 9)
    assert (len(space.exp.shared), len(space.exp.compiled)) == known


def test_methods_say_what_they_have(runs):
    methods = {name: Trained.open(path).exp.method for name, path in runs.items()}
    assert [name for name, m in methods.items() if not isinstance(m, HasLatent)] == ["classifier_digits"]
    assert [name for name, m in methods.items() if isinstance(m, HasStyles) and m.styled] == ["stylegan2_digits"]
