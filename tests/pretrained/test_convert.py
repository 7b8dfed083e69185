"""Pipelines become run directories, and run directories pipelines: tensor for tensor, and by the ordinary path."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pipeline_files import SCHEDULER, encoder, pipeline, pipeline_xl, unet, vae

from jaxgen import convert
from jaxgen.errors import UserError
from jaxgen.pretrained import pipelines, single_files
from jaxgen.pretrained.__main__ import run as command
from jaxgen.pretrained.pipelines import Part
from jaxgen.pretrained.torch_files import read_tensors
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment
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
    from jaxgen.images import save_png
    from jaxgen.train import train

    workdir = convert.convert(folder, tmp_path / "run", to="run")
    assert Trained.open(workdir).sample(num=2, steps=2, prompt="a cat").shape == (2, 16, 16, 3)
    for i in range(12):
        save_png(tmp_path / f"data/{i}.png", np.full((16, 16, 3), 20 * i, np.uint8))
        (tmp_path / f"data/{i}.txt").write_text(f"number {i}")
    config = configs.override(
        configs.load(str(workdir)), {"data.path": str(tmp_path / "data"), "steps": 1, "mesh": {"data": 1}}
    )
    train(config, workdir)
    assert Trained.open(workdir).at == 1
    whole, found = pipelines.read(folder), convert.of_run(workdir)
    alike(whole, found, of=("vae",))
    assert any((found.net.tensors[k] != v).any() for k, v in whole.net.tensors.items())


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
        (["inspect", str(folder / "unet")], "holds no model_index.json and is no run directory"),
        (["convert", *single], "name the folder of CLIP's: --tokenizer=DIR"),
        (["convert", str(imported), str(tmp_path / "l"), "--to=peft"], "has trained no LoRA"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            command(argv)


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
