"""Pipelines become run directories, and run directories pipelines: tensor for tensor, and by the ordinary path."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from cases import ROOT, untrained
from pipeline_files import FAMILIES, SCHEDULER, encoder, net, pipeline, pipeline_xl, unet, vae

from jaxgen import convert
from jaxgen.config import files as configs
from jaxgen.core import conditions
from jaxgen.errors import UserError
from jaxgen.pretrained import pipelines, single_files
from jaxgen.pretrained.__main__ import FORMS
from jaxgen.pretrained.__main__ import run as command
from jaxgen.pretrained.diffusers import write_folder
from jaxgen.pretrained.pipelines import Part
from jaxgen.pretrained.torch_files import read_tensors, write_tensors
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.trained import Trained

OPTIONS = dict(heads=2, text_heads=2, groups=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline's folder."""
    root = tmp_path_factory.mktemp("pipeline")
    pipelines.write(root / "sd", pipeline(root))
    (root / "sd/LICENSE.md").write_text("for tests")
    return root / "sd"


@pytest.fixture(scope="module")
def imported(folder):
    """The same as a run directory, with averages twice as large beside the weights in training."""
    whole = pipelines.read(folder)
    return convert.to_run(
        replace(whole, averages={k: 2 * v for k, v in whole.net.tensors.items()}), folder.parent / "run"
    )


def alike(one, other, of=("net", "vae")):
    """The same tensors of the same types under the same names."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in of]
    for a, b in [*pairs, *zip(one.encoders, other.encoders, strict=True)]:
        assert a.tensors.keys() == b.tensors.keys()
        for name, value in a.tensors.items():
            assert (value.dtype, value.tobytes()) == (b.tensors[name].dtype, b.tensors[name].tobytes()), name


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_folder_comes_back_to_the_byte(folder, imported, tmp_path):
    convert.convert(imported, tmp_path / "back", to="diffusers", weights="raw")
    old, new = files(folder), files(tmp_path / "back")
    assert old.keys() == new.keys()
    scheduler = "scheduler/scheduler_config.json"
    assert [name for name in old if old[name] != new[name]] == [scheduler]  # where every default is spelled out
    told = json.loads(new[scheduler])
    assert told.items() >= {**SCHEDULER, "timestep_spacing": "leading", "prediction_type": "epsilon"}.items()
    averages = convert.of_run(imported).net.tensors
    assert all((averages[name] == 2 * value).all() for name, value in pipelines.read(folder).net.tensors.items())


def test_a_single_file_and_back(folder, tmp_path):
    convert.convert(folder, tmp_path / "sd.safetensors", to="ldm")
    whole = pipelines.read(folder)
    alike(whole, single_files.read(tmp_path / "sd.safetensors", **OPTIONS))
    convert.convert(folder, tmp_path / "half", to="diffusers", dtype="fp16")
    for name, value in pipelines.read(tmp_path / "half").net.tensors.items():
        assert value.dtype == np.float16 and (value == whole.net.tensors[name].astype(np.float16)).all()


def test_what_the_run_is_wherever_it_lies(imported):
    moved = imported.with_name("moved")
    shutil.copytree(imported, moved)  # with all that it is lent
    run = RunDir(moved)
    exp = Experiment.open(run.config(), run.spec(0), moved / "frozen")
    net = exp.method.net.module
    assert net == unet()[0].clone(conditions=net.conditions) and net.conditions.keys() == {"states"}
    assert exp.data.shape == (16, 16, 3) and exp.spec.shape == (8, 8, 4)
    assert exp.config.tasks.codec.std == (1 / 0.18215,) * 4 and exp.config.method.guide.scale == 7.5
    assert exp.tokens(["a"])["caption"].shape == (1, 12)
    lent = {name: loan.lender.path for name, loan in exp.loans.items()}
    assert lent == {k: str(moved / "frozen" / k) for k in ("codec", "text")}


def test_two_encoders_and_sizes(tmp_path):
    pipelines.write(tmp_path / "xl", pipeline_xl(tmp_path))
    convert.convert(tmp_path / "xl", tmp_path / "run", to="run")
    run = RunDir(tmp_path / "run")
    exp = Experiment.open(run.config(), run.spec(0), tmp_path / "run/frozen")
    told = exp.method.net.module.conditions
    assert {k: f.shape for k, f in told.items()} == {"states": (12, 40), "pooled": (20,), "size": (6,)}
    assert told["size"].empty == (16, 16, 0, 0, 16, 16) and exp.config.method.text_encoder[1]["null"] == "zeros"
    assert exp.tokens(["!"])["caption"][0, 1] == 256 and exp.tokens(["!"])["caption2"][0, 1] == 0
    convert.convert(tmp_path / "run", tmp_path / "back", to="diffusers")
    old, new = files(tmp_path / "xl"), files(tmp_path / "back")
    assert [name for name in {**old, **new} if old.get(name) != new.get(name)] == ["scheduler/scheduler_config.json"]
    convert.convert(tmp_path / "xl", tmp_path / "xl.safetensors", to="ldm")
    found = read_tensors(tmp_path / "xl.safetensors")
    assert found["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"].shape == (72, 24)
    assert "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias" in found
    alike(pipelines.read(tmp_path / "xl"), single_files.read(tmp_path / "xl.safetensors", **OPTIONS))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_run_that_samples(family, tmp_path):
    """Traced, not computed: tests/system/test_peers.py compares the pixels with those of diffusers."""
    whole = FAMILIES[family](tmp_path)
    workdir = convert.to_run(whole, tmp_path / "run", size=16)
    exp = Trained.open(workdir, changes={"method.solver.steps": 2}).exp
    made = jax.eval_shape(
        lambda w, rng: exp.show(w.frozen, exp.method.sample(w, rng, 2, conditions.read(exp.spec, {}, 2))),
        exp.abstract.view(), jax.random.key(0),
    )  # fmt: skip
    assert made.shape == (2, 16, 16, 3)
    found = convert.of_run(workdir)
    alike(whole, found, of=("net", "vae") if whole.vae else ("net",))
    assert found.scheduler.items() >= whole.scheduler.items()
    assert found.told == whole.told and (not whole.vae or found.vae.config == whole.vae.config)
    pipelines.write(tmp_path / "back", found)
    assert pipelines.read(tmp_path / "back").net.config == whole.net.config


def test_a_flow_that_is_told_other_times_is_not_diffusers(tmp_path):
    workdir = convert.to_run(FAMILIES["flux"](tmp_path), tmp_path / "run", size=16)
    file = workdir / "config.json"
    told = json.loads(file.read_text())
    told["method"]["process"]["scale"] = 1000.0
    file.write_text(json.dumps(told))
    with pytest.raises(
        UserError, match=r"told times up to 1000, and a FluxTransformer2DModel in diffusers up to 1; train"
    ):
        convert.of_run(workdir)


def test_latents_without_a_condition_go_to_the_pipeline_that_decodes_them(folder, tmp_path):
    """Those of a run with a codec: DDPMPipeline would show the latents themselves."""
    whole = replace(pipelines.read(folder), net=FAMILIES["ddpm"](tmp_path).net, encoders=(), tokenizers=())
    pipelines.write(tmp_path / "ldm", replace(whole, kind=""))
    index = json.loads((tmp_path / "ldm/model_index.json").read_text())
    assert (index["_class_name"], index["vqvae"]) == (
        "LDMPipeline",
        ["diffusers", "AutoencoderKL"],
    ) and "vae" not in index
    assert pipelines.read(tmp_path / "ldm").vae.config == whole.vae.config


def test_openclip_of_sd2_loses_its_last_block_once(tmp_path):
    """What is left aside of a published file is told; a file of ours holds no more than what is used."""
    file, whole = tmp_path / "sd2.safetensors", pipeline(tmp_path, encoders=(encoder(16, "gelu"),))
    single_files.write(file, whole)
    alike(whole, again := single_files.read(file, **OPTIONS))
    assert again.left == ()
    stem, tensors = "cond_stage_model.model.", read_tensors(file)
    more = {k.replace("resblocks.1.", "resblocks.2."): v for k, v in tensors.items() if ".resblocks.1." in k}
    more[f"{stem}text_projection"] = np.zeros((16, 16), np.float32)
    write_tensors(tmp_path / "theirs.safetensors", {**tensors, **more})
    found = single_files.read(tmp_path / "theirs.safetensors", **OPTIONS)
    alike(whole, found)
    assert found.left == ("the last block and the projection of OpenCLIP, of which Stable Diffusion 2 is told nothing",)
    assert "left aside      the last block" in convert.described(found)[-1]


@pytest.mark.parametrize(
    "scheduler",
    [
        dict(_class_name="PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        dict(_class_name="EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1),
        dict(_class_name="EulerAncestralDiscreteScheduler"),
        dict(_class_name="DDPMScheduler", variance_type="fixed_large"),
        dict(_class_name="DPMSolverMultistepScheduler", use_karras_sigmas=True, algorithm_type="sde-dpmsolver++"),
        dict(_class_name="UniPCMultistepScheduler", solver_order=3, prediction_type="v_prediction"),
        dict(_class_name="DDIMScheduler", rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="sample"),
    ],
    ids=lambda config: config["_class_name"],
)  # fmt: skip
def test_schedulers_come_back(scheduler):
    from jaxgen.config import registry
    from jaxgen.pretrained.schedulers import method_keys, same, scheduler_config

    keys = method_keys({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **scheduler}, 20)
    whole = {part: registry.complete(part, keys[part]) for part in ("process", "predict", "solver")}
    found = scheduler_config(whole)
    assert found["_class_name"] == scheduler["_class_name"]
    assert same(method_keys(found, 20), whole)


@pytest.mark.slow
def test_it_is_sampled_trained_on_and_given_back_as_any_run(folder, tmp_path):
    from jaxgen.config import files as configs
    from jaxgen.evaluate import evaluate
    from jaxgen.images import save_png
    from jaxgen.train import train

    workdir = convert.convert(folder, tmp_path / "run", to="run")
    assert Trained.open(workdir).sample(num=2, steps=2, prompt="a cat").shape == (2, 16, 16, 3)
    for i in range(12):
        save_png(tmp_path / f"data/{i}.png", np.full((16, 16, 3), 20 * i, np.uint8))
        (tmp_path / f"data/{i}.txt").write_text(f"number {i}")
    changes = {"data.path": str(tmp_path / "data"), "steps": 1, "mesh": {"data": 1}}
    figures = evaluate(workdir, changes={**changes, "eval.loss.num": 2})
    assert figures and all(map(np.isfinite, figures.values()))
    config, whole = configs.override(configs.load(str(workdir)), changes), pipelines.read(folder)

    def trained_one_step(found):
        alike(whole, found, of=("vae",))
        steps = [np.abs(found.net.tensors[k] - v).max() for k, v in whole.net.tensors.items()]
        return 0 < max(steps) < 1e-4  # of Adam with its rate of 1e-5

    train(configs.override(config, {"init": str(workdir)}), tmp_path / "tuned")
    assert trained_one_step(convert.of_run(tmp_path / "tuned"))
    train(config, workdir)
    assert Trained.open(workdir).at == 1 and trained_one_step(convert.of_run(workdir))
    for file in (workdir / "checkpoints/1/state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning, match="checkpoint 1 in .* is damaged.*; falling back to step 0"):
        train(config, workdir)  # from what was imported, with a fresh optimizer
    assert Trained.open(workdir).at == 1 and trained_one_step(convert.of_run(workdir))


def without(part):
    return lambda folder: shutil.rmtree(folder / part)


def rewritten(file, **changes):
    def change(folder):
        told = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**told, **changes}))

    return change


@pytest.mark.parametrize(
    "broken, said",
    [
        (without("vae"), "half a pipeline: model_index.json names vae, and there is no such folder; load it whole"),
        (lambda folder: (folder / "unet/config.json").unlink(), "unet has no config.json: give the folder"),
        (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").unlink(), "unet has no diffusion_pytorch_model"),
        (rewritten("unet/config.json", _class_name="UNet3DConditionModel"), "must name one of .*, not UNet3DConditionModel"),
        (rewritten("model_index.json", scheduler=[None, None]), "must name a scheduler and a unet or a transformer"),
        (rewritten("model_index.json", prior=["diffusers", "PriorTransformer"]), "half a pipeline: model_index.json names prior"),
        (rewritten("scheduler/scheduler_config.json", _class_name="LCMScheduler"), "diffusers scheduler LCMScheduler is not known"),
        (rewritten("tokenizer/tokenizer_config.json", tokenizer_class="GemmaTokenizer"), "class GemmaTokenizer is not read"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json is not valid JSON"),
    ],
)  # fmt: skip
def test_half_a_pipeline_is_one_line(folder, tmp_path, broken, said):
    shutil.copytree(folder, tmp_path / "sd")
    broken(tmp_path / "sd")
    with pytest.raises(UserError, match=said) as error:
        convert.convert(tmp_path / "sd", tmp_path / "run", to="run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("to", ["run", "diffusers", "ldm"])
def test_what_does_not_come_to_its_end_leaves_nothing(folder, imported, tmp_path, monkeypatch, to):
    def full(path, *args):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pipelines, "write_tensors", full)
    monkeypatch.setattr(single_files, "write_tensors", full)
    with pytest.raises(OSError, match="no space"):
        convert.convert(folder if to == "run" else imported, tmp_path / "made", to=to)
    assert not (tmp_path / "made").exists()


def test_the_command_line(folder, imported, tmp_path, capsys):
    command(["inspect", str(folder)])
    told = capsys.readouterr()
    assert "UNet2DConditionModel, 206 tensors, 24,556 parameters, float32" in told.out and "reading" in told.err
    command(["convert", str(folder), str(tmp_path / "x.safetensors"), "--to=ldm", "--dtype=bf16"])
    assert single_files.read(tmp_path / "x.safetensors", **OPTIONS).net.tensors["conv_in.bias"].dtype == "bfloat16"
    single = [str(tmp_path / "x.safetensors"), str(tmp_path / "r"), "--to=run", "--groups=4"]
    for argv, said in (
        (["convert", str(folder)], "convert needs what to write and in which form"),
        (["inspect", str(folder), "--to=run"], "inspect writes nothing"),
        (["convert", str(folder), str(tmp_path), "--to=run"], "is there already"),
        (["inspect", str(tmp_path / "nothing")], "does not exist; name a folder of a pipeline"),
        (["inspect", str(folder / "tokenizer")], "holds no model_index.json and is no run directory"),
        (["convert", *single], r"0 tokenizers for 1 encoders of text: .* name the folder of CLIP's .*: --tokenizer=DIR"),
        (["convert", *single[:2], "--to=diffusers", "--groups=4"], "0 tokenizers for 1 encoders of text"),
        (["convert", *single, *[f"--tokenizer={folder}/tokenizer"] * 2], "2 tokenizers for 1 encoders of text"),
        (["convert", str(imported), str(tmp_path / "l"), "--to=peft"], "has trained no LoRA"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            command(argv)


def test_a_run_of_other_nets_is_refused_in_every_form(tmp_path):
    config = configs.override(configs.load(f"{ROOT}/configs/gan_digits.py:tiny"), {"mesh": {"data": 1}})
    run = untrained(config, open_source(config, "train").spec, tmp_path, True)
    for to in FORMS:
        with pytest.raises(UserError, match=r"run of method gan|has trained no LoRA"):
            convert.convert(run, tmp_path / "made", to=to)
        assert not (tmp_path / "made").exists()


def test_what_diffusers_and_single_files_cannot_hold(folder, tmp_path):
    whole = pipelines.read(folder)
    two = replace(whole, encoders=(encoder(), encoder(), encoder()))
    with pytest.raises(
        UserError, match="diffusers has no pipeline of a UNet2DConditionModel with 3 encoders and 1 tokenizers"
    ):
        pipelines.write(tmp_path / "x", two)
    with pytest.raises(
        UserError, match="not of a UNet2DConditionModel with 3 encoders of text; convert it --to=diffusers"
    ):
        single_files.write(tmp_path / "x", two)
    odd = replace(
        whole, net=Part(whole.net.config, {**whole.net.tensors, "conv_extra.weight": np.zeros(1, np.float32)})
    )
    with pytest.raises(UserError, match=r"conv_extra\.weight is no tensor of a UNet that single files have"):
        single_files.write(tmp_path / "x", odd)


def test_latents_standardised_by_channel_go_into_the_layers_beside_them():
    from jaxgen.pretrained import autoencoders

    found = convert.first_stage(vae())
    mean, std = np.linspace(-1, 1, 4), np.linspace(0.5, 2.0, 4)
    variables = autoencoders.standardised(found.module, found.variables, mean, std)
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    run = lambda v, *args, method: found.module.apply(v, *args, method=method)  # noqa: E731
    (m, log_var), (m2, log_var2) = (run(v, x, method="moments") for v in (found.variables, variables))
    np.testing.assert_allclose(m2, (m - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_var2, log_var - 2 * np.log(std), rtol=1e-4, atol=1e-5)
    decoded = [run(v, z, method="decode") for v, z in ((found.variables, m), (variables, m2))]
    np.testing.assert_allclose(*decoded, rtol=1e-4, atol=1e-4)


def test_a_part_alone(folder, tmp_path, capsys):
    """A folder of a net, a first stage, an encoder: told, and written in another form; a net of pixels is a run."""
    for part, said in (
        ("unet", "UNet2DConditionModel, 206 tensors, 24,556 parameters, float32"),
        ("unet", "here            unet_condition, told states"),
        ("vae", "AutoencoderKL"),
        ("text_encoder", "here            clip_text, states of 16 numbers"),
    ):
        command(["inspect", str(folder / part)])
        assert said in capsys.readouterr().out
        if not (tmp_path / part).exists():
            command(["convert", str(folder / part), str(tmp_path / part), "--to=diffusers"])
            assert files(tmp_path / part) == files(folder / part)
    convert.convert(folder, tmp_path / "whole.safetensors", to="ldm")
    whole, made = read_tensors(tmp_path / "whole.safetensors"), {}
    for part in ("unet", "vae"):
        convert.convert(folder / part, tmp_path / f"{part}.safetensors", to="ldm")
        made |= read_tensors(tmp_path / f"{part}.safetensors")
    assert {k: v.tobytes() for k, v in made.items()} == {
        k: v.tobytes() for k, v in whole.items() if not k.startswith("cond_stage_model.")
    }
    for part, said in (
        ("unet", "without its first stage and what tells it a text it makes no pictures"),
        ("vae", "--config.tasks.codec.run=pretrained --config.tasks.codec.run.path="),
        ("text_encoder", "--config.method.text_encoder.run=published_text"),
    ):
        with pytest.raises(UserError, match=said):
            convert.convert(folder / part, tmp_path / "run", to="run")
    with pytest.raises(UserError, match="not of a model of transformers; convert it --to=diffusers"):
        convert.convert(folder / "text_encoder", tmp_path / "x", to="ldm")
    pixels = FAMILIES["ddpm"](tmp_path)
    pipelines.write_alone(tmp_path / "ddpm/unet", pixels.net)
    with pytest.raises(UserError, match=r"no scheduler_config\.json in it, nor in .*ddpm/scheduler"):
        convert.convert(tmp_path / "ddpm/unet", tmp_path / "run", to="run")
    (tmp_path / "ddpm/unet/scheduler_config.json").write_text(json.dumps(pixels.scheduler))
    alike(pixels, convert.of_run(convert.convert(tmp_path / "ddpm/unet", tmp_path / "run", to="run")), of=("net",))


def test_parts_that_lie_in_the_pipeline_itself_and_old_names_of_classes(tmp_path):
    """As the published folders of DDPM, DiT and PixArt are."""
    whole = FAMILIES["ddpm"](tmp_path)
    pipelines.write(tmp_path / "ddpm", whole)
    for file in [*(tmp_path / "ddpm/unet").iterdir(), *(tmp_path / "ddpm/scheduler").iterdir()]:
        shutil.move(file, tmp_path / "ddpm" / file.name)
    for part in ("unet", "scheduler"):
        (tmp_path / "ddpm" / part).rmdir()
    found = pipelines.read(tmp_path / "ddpm")
    alike(whole, found, of=("net",))
    assert found.scheduler == whole.scheduler
    old = dict(
        cross_attention_dim=None, num_vector_embeds=None, only_cross_attention=False, use_linear_projection=False
    )
    for family, extra in (("dit", old), ("pixart", {})):
        net = FAMILIES[family](tmp_path / family).net
        write_folder(
            tmp_path / f"{family}_net", {**net.config, **extra, "_class_name": "Transformer2DModel"}, net.tensors
        )
        part = pipelines.read_alone(tmp_path / f"{family}_net")
        assert part.config["_class_name"] == net.config["_class_name"]
        assert pipelines.net_of(part, family) == pipelines.net_of(net, family)


def test_flux_goes_into_a_file_of_its_authors_and_back(tmp_path):
    config = dict(
        num_attention_heads=1, attention_head_dim=32, axes_dims_rope=[4, 14, 14], num_layers=1, num_single_layers=1
    )
    part = net("FluxTransformer2DModel", in_channels=16, joint_attention_dim=24, pooled_projection_dim=16, **config)
    single_files.write_alone(tmp_path / "flux.safetensors", part)
    convert.convert(tmp_path / "flux.safetensors", tmp_path / "net", to="diffusers")
    again = pipelines.read_alone(tmp_path / "net")
    assert again.config == part.config and again.tensors.keys() == part.tensors.keys()
    for name, value in part.tensors.items():
        assert (again.tensors[name] == value).all(), name
    write_tensors(tmp_path / "odd.safetensors", {**read_tensors(tmp_path / "flux.safetensors"), "x.bias": np.zeros(1)})
    with pytest.raises(UserError, match=r"x\.bias is no tensor of Flux"):
        convert.inspect(tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="name the folder of the whole"):
        convert.convert(tmp_path / "flux.safetensors", tmp_path / "run", to="run")


def test_a_net_of_pixels_that_says_a_variance(tmp_path):
    """Its scheduler's learned_range is the solver's, its objective the hybrid one; it comes back as it was."""
    whole = FAMILIES["ddpm"](tmp_path)
    part = net("UNet2DModel", **{**whole.net.config, "out_channels": 6})
    whole = replace(whole, net=part, scheduler={**whole.scheduler, "variance_type": "learned_range"})
    workdir = convert.to_run(whole, tmp_path / "run", size=16)
    method = Trained.open(workdir).exp.config.method
    assert (method.objective.name, method.solver.variance, method.net.out_channels) == ("hybrid", "learned", 6)
    found = convert.of_run(workdir)
    alike(whole, found, of=("net",))
    assert found.net.config == part.config and found.scheduler["variance_type"] == "learned_range"
