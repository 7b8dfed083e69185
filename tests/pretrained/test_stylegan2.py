"""StyleGAN2's files: pickles of nets read without running anything, exact both ways; what is something else is named."""

import functools
import pickle
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ROOT
from pickles import Call, Name, Storages, pickled, stream_file

from jaxgen.core.net import Decay, Net
from jaxgen.core.spec import pictures
from jaxgen.core.state import Weights
from jaxgen.errors import UserError
from jaxgen.methods.gan import Gan
from jaxgen.nets.stylegan2 import StyleGan2Discriminator, StyleGan2Generator
from jaxgen.pretrained.stylegan2 import discriminator, from_author, generator, load_pickle, to_author
from jaxgen.pretrained.torch_files import read_tensors, write_tensors

WIDTH = dict(channel_base=64, channel_max=8)
NETS = {
    "G": dict(
        z_dim=6, c_dim=3, w_dim=5, img_resolution=16, img_channels=1,
        mapping_kwargs=dict(num_layers=2, embed_features=None, layer_features=None),  # as their legacy.py says all options
        synthesis_kwargs=dict(**WIDTH, num_fp16_res=1, conv_clamp=256, use_noise=True),
    ),
    "D": dict(c_dim=3, img_resolution=16, img_channels=1, **WIDTH, block_kwargs={}, epilogue_kwargs=dict(mbstd_group_size=2)),
}  # fmt: skip
FLAT = {
    "G": dict(
        z_dim=6, c_dim=3, w_dim=5, img_resolution=16, img_channels=1, mapping_layers=2, **WIDTH, num_fp16_res=1, conv_clamp=256
    ),
    "D": dict(c_dim=3, img_resolution=16, img_channels=1, **WIDTH, mbstd_group_size=2),
}  # fmt: skip
TOLD = {"label": jnp.zeros(1, jnp.int32)}


def tensors(name, seed=0):
    """Random tensors of one of NETS, as published."""
    module = (discriminator if name == "D" else generator)(FLAT[name])
    x = jnp.zeros((1, 16, 16, 1)) if name == "D" else jnp.zeros((1, 6))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, TOLD))
    rng = np.random.default_rng(seed)
    found = to_author(module, jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes))
    return found


def parameter(array, own):
    """A tensor as a plain pickle of PyTorch's has it: its storage is bytes of the stream layout."""
    storages = Storages()
    data = stream_file(storages.reference(array), storages)
    storage = Call(Name("torch.storage", "_load_from_bytes"), (data,))
    strides = tuple(s // array.itemsize for s in array.strides)
    hooks = Call(Name("collections", "OrderedDict"), ())
    tensor = Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, 0, array.shape, strides, False, hooks))
    return Call(Name("torch._utils", "_rebuild_parameter"), (tensor, True, hooks)) if own else tensor


def persistent(kind, state):
    meta = dict(type="class", version=6, module_src="raise SystemExit('run')", class_name=kind, state=state)
    return Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def module(kind, weights, **more):
    """A module of these tensors; those within it by the first part of their names."""
    own = {k: a for k, a in weights.items() if "." not in k}
    within = {}
    for name, a in weights.items():
        if "." in name:
            first, rest = name.split(".", 1)
            within.setdefault(first, {})[rest] = a
    fixed = ("resample_filter", "noise_const", "w_avg", "p")
    state = dict(
        _parameters={k: parameter(a, True) for k, a in own.items() if k not in fixed},
        _buffers={k: parameter(a, False) for k, a in own.items() if k in fixed},
        _modules={k: module("Part", w) for k, w in within.items()},
        **more,
    )
    return persistent(kind, state)


def net(name, seed=0, kind=None):
    return module(kind or {"D": "Discriminator"}.get(name, "Generator"), tensors(name, seed), _init_kwargs=NETS[name])


def saved(tmp_path, **members):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickled(members))
    return path


def test_a_pickle_is_read_and_written_exactly(tmp_path):
    pipe = module("AugmentPipe", {"p": np.array(0.25, np.float32)})
    path = saved(tmp_path, G=net("G", 1), D=net("D"), G_ema=net("G", 2), training_set_kwargs={}, augment_pipe=pipe)
    found = load_pickle(path)
    assert found.gen == generator(FLAT["G"]) and found.disc == discriminator(FLAT["D"])
    assert (found.z_dim, found.p, found.gen.shape, found.gen.conditions.classes) == (6, 0.25, (16, 16, 1), 3)
    assert "16x16x1, 3 labels" in str(found) and "p = 0.250" in str(found) and "licence" in str(found)
    for name, want in (("G", tensors("G", 1)), ("G_ema", tensors("G", 2)), ("D", tensors("D"))):
        got = to_author(found.disc if name == "D" else found.gen, found.variables[name])
        write_tensors(tmp_path / f"{name}.safetensors", got)
        got = read_tensors(tmp_path / f"{name}.safetensors")
        assert got.keys() == want.keys()
        for k, a in want.items():
            np.testing.assert_array_equal(got[k], a, err_msg=k)


def test_a_run_goes_on_from_a_pickle(tmp_path):
    found = load_pickle(saved(tmp_path, G=net("G", 1), D=net("D"), G_ema=net("G", 2)))
    tx = optax.adam(1e-3)
    method = Gan(
        gen=Net(found.gen, tx, (Decay(0.9),)),
        disc=Net(found.disc, tx),
        spec=pictures(found.gen.shape, 3),
        z_dim=found.z_dim,
    )
    batch = {"image": jnp.zeros((2, 16, 16, 1), jnp.uint8), "label": jnp.arange(2)}
    state = jax.eval_shape(method.init, jax.random.key(0), batch)
    nets = found.started(jax.jit(method.init)(jax.random.key(0), batch).nets)
    for name, want in state.nets.items():
        assert jax.tree.structure(nets[name]) == jax.tree.structure(want)
    np.testing.assert_array_equal(
        nets["gen"].ema["0.9"]["synthesis"]["b4"]["const"],
        found.variables["G_ema"]["params"]["synthesis"]["b4"]["const"],
    )
    raw = nets["gen"].params["synthesis"]["b4"]["const"]
    np.testing.assert_array_equal(raw, found.variables["G"]["params"]["synthesis"]["b4"]["const"])
    w = Weights(0, {"gen": nets["gen"].variables(True), "disc": nets["disc"].variables(False)}, {}, {})
    assert jax.jit(method.sample, static_argnums=2)(w, jax.random.key(1), 2, {"label": jnp.arange(2)}).shape == (
        2,
        16,
        16,
        1,
    )


def test_the_average_alone_is_enough(tmp_path):
    found = load_pickle(saved(tmp_path, G_ema=net("G")))
    assert list(found.variables) == ["G_ema"] and found.disc is None and found.p is None


def test_nothing_in_a_pickle_is_run(tmp_path):
    mark = tmp_path / "mark"
    evil = Call(Name("os", "system"), (f"touch {mark}",))
    load_pickle(saved(tmp_path, G_ema=net("G"), more=evil))
    assert not mark.exists()


@pytest.mark.parametrize(
    "members, message",
    [
        (dict(state_dict={"a": 1}), "holds no generator G or G_ema"),
        (dict(G=Call(Name("os", "system"), ("true",))), "holds no generator"),
        (dict(G_ema=persistent("SongUNet", dict(_init_kwargs={}))), "G_ema is of class SongUNet"),
        (
            dict(G_ema=persistent("Generator", dict(_modules=dict(input=persistent("SynthesisInput", {}))))),
            "a net of StyleGAN3",
        ),
        (
            dict(G_ema=module("Generator", {"a": np.ones(2, np.float32)}, _init_kwargs=dict(depth=3))),
            "unknown option depth=3",
        ),
        (
            dict(G_ema=persistent("Generator", dict(_parameters={"a": Call(Name("os", "system"), ("true",))}))),
            r"a is os\.system, which is no array",
        ),
    ],
)
def test_what_is_something_else_is_named(tmp_path, members, message):
    with pytest.raises(UserError, match=message):
        load_pickle(saved(tmp_path, **members))


class Network:
    """A net of TensorFlow's version, as its pickles have it."""

    def __init__(self, **state):
        self.__dict__.update(state)


Network.__module__ = "dnnlib.tflib.network"
SCOPES = {  # layer of PyTorch's version -> its scope
    "G": {
        "mapping.embed": "mapping/LabelEmbed", "mapping.fc0": "mapping/Dense0", "mapping.fc1": "mapping/Dense1",
        "synthesis.b4.conv1": "synthesis/4x4/Conv", "synthesis.b4.torgb": "synthesis/4x4/ToRGB",
        **{f"synthesis.b{r}.{layer}": f"synthesis/{r}x{r}/{scope}" for r in (8, 16)
           for layer, scope in (("conv0", "Conv0_up"), ("conv1", "Conv1"), ("torgb", "ToRGB"), ("skip", "Skip"))},
    },
    "D": {
        "mapping.embed": "LabelEmbed", **{f"mapping.fc{i}": f"Mapping{i}" for i in range(8)},
        "b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output",
        **{f"b{r}.{layer}": f"{r}x{r}/{scope}" for r in (8, 16)
           for layer, scope in (("conv0", "Conv0"), ("conv1", "Conv1_down"), ("fromrgb", "FromRGB"), ("skip", "Skip"))},
    },
}  # fmt: skip
NOISES = ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")
TOLD_TF = dict(label_size=3, resolution=16, num_channels=1, fmap_base=32, fmap_max=8)
NETS_TF = {
    "G": dict(
        **TOLD_TF, latent_size=6, dlatent_size=5, mapping_layers=2, num_fp16_res=1, conv_clamp=256, truncation_psi=0.5
    ),
    "D": dict(**TOLD_TF, mapping_layers=8, mapping_lrmul=0.01, mbstd_group_size=2),
}


def variable(name, tensor, a):
    """A tensor of PyTorch's version -> what TensorFlow's has."""
    layer, _, leaf = tensor.rpartition(".")
    if tensor == "mapping.w_avg":
        return "dlatent_avg", a
    if leaf == "const":
        return "synthesis/4x4/Const/const", a[None]
    if leaf == "noise_const":
        return f"synthesis/noise{NOISES.index(layer.removeprefix('synthesis.'))}", a[None, None]
    own = "mod_" if layer.endswith(".affine") else ""
    scope = SCOPES[name][layer.removesuffix(".affine")]
    if a.ndim == 4:
        a = a.transpose(2, 3, 1, 0)
        a = a[::-1, ::-1] if scope.endswith("Conv0_up") else a
    elif a.ndim == 2:
        a = a.T
    elif own:
        a = a - 1
    return f"{scope}/{own}{leaf}", np.float32(a) if a.ndim == 0 else a


def of_tensorflow(name, seed=0, **more):
    weights = {k: a for k, a in tensors(name, seed).items() if not k.endswith("resample_filter")}
    pairs = [("lod", np.float32(0)), *(variable(name, k, a) for k, a in weights.items())]

    def part(prefix="", **more):
        parts = {} if prefix or name == "D" else {k: part(f"{k}/") for k in ("mapping", "synthesis")}
        own = [(k.removeprefix(prefix), a) for k, a in pairs if k.startswith(prefix) and not k.startswith(tuple(parts))]
        source = dict(build_module_src="raise SystemExit('run')", build_func_name=f"{name}_main")
        state = dict(version=4, static_kwargs=NETS_TF[name], variables=own, components=parts, **source)
        return Network(**state | more)

    return part(**more)


def saved_by_tensorflow(tmp_path, monkeypatch, content):
    """Python's own pickle of it, with the class where its program has it."""
    for place in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.setitem(sys.modules, place, types.ModuleType(place))
    sys.modules["dnnlib.tflib.network"].Network = Network
    path = tmp_path / "tensorflow.pkl"
    path.write_bytes(pickle.dumps(content))
    monkeypatch.undo()  # who reads it has no such module
    return path


def test_a_pickle_of_tensorflow_is_the_same_net(tmp_path, monkeypatch):
    content = (of_tensorflow("G", 1), of_tensorflow("D"), of_tensorflow("G", 2))
    found = load_pickle(saved_by_tensorflow(tmp_path, monkeypatch, content))
    want = load_pickle(saved(tmp_path, G=net("G", 1), D=net("D"), G_ema=net("G", 2)))
    assert (found.gen, found.disc, found.z_dim) == (want.gen, want.disc, want.z_dim)
    near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)  # a bias was counted from 1
    jax.tree.map(near, found.variables, want.variables)
    cond = {"label": jnp.arange(3)}
    draw = jax.jit(lambda weights, z: found.gen.apply(weights, z, cond, noise="const"))
    z = jax.random.normal(jax.random.key(0), (3, 6))
    got, images = (np.asarray(draw(f.variables["G_ema"], z)) for f in (found, want))
    np.testing.assert_allclose(got, images, atol=1e-4 * np.abs(images).max())
    alone = load_pickle(saved_by_tensorflow(tmp_path, monkeypatch, content[2]))
    assert list(alone.variables) == ["G_ema"] and alone.disc is None


def test_a_group_of_tensorflow_is_that_of_its_discriminator(tmp_path, monkeypatch):
    told = {k: v for k, v in NETS_TF["D"].items() if k != "mbstd_group_size"}
    groups = []
    for function in ("D_stylegan2", "D_main"):
        disc = of_tensorflow("D", static_kwargs=told, build_func_name=function)
        groups.append(
            load_pickle(
                saved_by_tensorflow(tmp_path, monkeypatch, (of_tensorflow("G"), disc, of_tensorflow("G")))
            ).disc.group
        )
    assert groups == [4, discriminator(FLAT["D"] | dict(mbstd_group_size=None)).group]


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(version=3),
            "its nets have format version 3, and StyleGAN2's have 4 or later; give a pickle of StyleGAN2",
        ),
        (dict(static_kwargs=NETS_TF["G"] | dict(fmap_decay=2)), "unknown option fmap_decay=2"),
        (
            dict(variables=[("LabelConcat/weight", np.ones((3, 6), np.float32))]),
            "variable LabelConcat/weight is none of",
        ),
        (dict(variables=[]), r"lack tensor mapping\.w_avg"),
        (dict(components={}), "G_ema is of class Discriminator"),
    ],
)
def test_what_is_something_else_of_tensorflow_is_named(tmp_path, monkeypatch, changes, message):
    with pytest.raises(UserError, match=message):
        load_pickle(saved_by_tensorflow(tmp_path, monkeypatch, of_tensorflow("G", **changes)))


def test_the_page_on_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, G_ema=net("G"))
    (block,) = [
        b
        for b in re.findall(r"```python\n(.*?)```", (ROOT / "docs/weights.md").read_text(), re.S)
        if "load_pickle" in b
    ]
    names = {}
    exec(block, names)
    assert names["images"].shape == (16, 16, 16, 1) and (tmp_path / "samples.png").is_file()
    assert read_tensors(tmp_path / "generator.safetensors").keys() == tensors("G").keys()


def test_files_that_are_no_pickles(tmp_path):
    path = tmp_path / "network.pkl"
    with pytest.raises(UserError, match="no such file"):
        load_pickle(path)
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match="is not a whole pickle"):
        load_pickle(path)
    whole = pickled({"G_ema": net("G")})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a whole pickle"):
        load_pickle(path)


def test_a_group_of_none_is_the_whole_batch():
    disc = discriminator(FLAT["D"] | dict(mbstd_group_size=None))
    x, weights = jax.random.normal(jax.random.key(0), (6, 16, 16, 1)), tensors("D")
    judge = lambda net: net.apply(from_author(net, weights), x, {"label": jnp.zeros(6, jnp.int32)})  # noqa: E731
    np.testing.assert_array_equal(judge(disc), judge(disc.clone(group=6)))
    assert np.abs(judge(disc) - judge(disc.clone(group=2))).max() > 1e-5


def test_other_sizes_and_filters_are_named():
    weights = tensors("G")
    with pytest.raises(UserError, match=r"lack tensor .*b32"):
        from_author(generator(FLAT["G"] | dict(img_resolution=32)), weights)
    with pytest.raises(UserError, match=r"resample_filter is another filter than filter=\(1\.0, 1\.0\)"):
        from_author(generator(FLAT["G"] | dict(resample_filter=[1, 1])), weights)
    with pytest.raises(UserError, match=r"lack tensor .*fromrgb"):
        from_author(discriminator(FLAT["D"]), {"a": np.ones(2)})


@pytest.mark.parametrize("shape", [(12, 8, 3), (14, 14, 4)])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_export_then_import_is_the_identity_of_any_base(shape, architecture):
    fields = dict(**WIDTH, architecture=architecture)
    x = jnp.zeros((1, *shape))
    for net, given in (
        (StyleGan2Generator(shape=shape, w_dim=4, layers=1, **fields), x[:, 0, 0]),
        (StyleGan2Discriminator(**fields), x),
    ):
        variables = dict(net.init(jax.random.key(0), given))
        back = from_author(net, to_author(net, variables))
        assert jax.tree.structure(back) == jax.tree.structure(variables)
        jax.tree.map(np.testing.assert_array_equal, back, variables)
