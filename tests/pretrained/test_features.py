"""State dicts of feature nets -> our variables: folding, both naming schemes, heads, and files of the wrong net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pickles import Storages, state_dict, stream_file, zip_file

from jaxgen.core.lender import Role
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.metrics.lpips import lpips, scale_images
from jaxgen.nets.inception import InceptionV3
from jaxgen.pretrained.features import (
    BATCH_NORM_EPS,
    TRUNKS,
    Distance,
    Inception,
    Lpips,
    heads,
    inception,
    shipped_heads,
    trunk,
)

RNG = np.random.default_rng(0)
NETS = list(TRUNKS)


def flat(module):
    """(layer's path, kernel's shape) of every layer."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32))
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    return [([k.key for k in path[:-1]], a.shape) for path, a in leaves if path[-1].key == "kernel"]


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def inception_tensors():
    tensors = {}
    for path, (h, w, c, o) in flat(InceptionV3()):
        stem = ".".join(path)
        if stem == "fc":
            tensors |= {"fc.weight": normal(o, c), "fc.bias": normal(o)}
            continue
        tensors[f"{stem}.conv.weight"] = normal(o, c, h, w)
        tensors |= {f"{stem}.bn.{name}": normal(o) for name in ("weight", "bias", "running_mean")}
        tensors[f"{stem}.bn.running_var"] = np.abs(normal(o))
        tensors[f"{stem}.bn.num_batches_tracked"] = np.array(7)
    return tensors


def trunk_tensors(net):
    tensors = {}
    for (layer, *inner), (h, w, c, o) in flat(TRUNKS[net].module()):
        stem = ".".join(["features", str(TRUNKS[net].places[layer]), *inner])
        tensors |= {f"{stem}.weight": normal(o, c, h, w), f"{stem}.bias": normal(o)}
    return tensors


def test_inception_folds_its_normalisation():
    tensors = inception_tensors()
    params = inception(tensors)["params"]
    assert sum(a.size for a in jax.tree.leaves(params)) == sum(
        a.size
        for name, a in tensors.items()
        if not name.endswith(("bn.running_var", "bn.running_mean", "bn.weight", "tracked"))
    )
    np.testing.assert_array_equal(params["fc"]["kernel"][0, 0], tensors["fc.weight"].T)
    ours, stem = params["Mixed_6c"]["branch7x7dbl_2"], "Mixed_6c.branch7x7dbl_2"
    assert ours["kernel"].shape == (7, 1, 160, 160)  # tall, as torch's kernel (7, 1)
    gamma, beta, mean, var = (tensors[f"{stem}.bn.{n}"] for n in ("weight", "bias", "running_mean", "running_var"))
    patch = normal(7, 1, 160)
    plain = np.einsum("hwc,ochw->o", patch.astype(np.float64), tensors[f"{stem}.conv.weight"])
    want = gamma * (plain - mean) / np.sqrt(var + BATCH_NORM_EPS) + beta
    np.testing.assert_allclose(
        np.einsum("hwc,hwco->o", patch, ours["kernel"]) + ours["bias"], want, rtol=1e-4, atol=1e-3
    )


def changed(tensors, **changes):
    """Tensors without those whose change is None."""
    return {k: v for k, v in (tensors | {n.replace("__", "."): v for n, v in changes.items()}).items() if v is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(fc__bias=None), "lack tensor fc.bias"),
        (dict(fc__weight=np.zeros((1000, 2048), "f")), r"fc.weight has shape \(1000, 2048\), want \(1008, 2048\)"),
        (dict(Mixed_7a__branch3x3_1__bn__running_var=None), "lack tensor Mixed_7a.branch3x3_1.bn.running_var"),
        (dict(AuxLogits__fc__bias=np.zeros(1000, "f")), "AuxLogits.fc.bias; is this torchvision's net"),
    ],
)
def test_inception_names_what_is_wrong(changes, message):
    with pytest.raises(UserError, match=message):
        inception(changed(inception_tensors(), **changes))


@pytest.mark.parametrize("net", NETS)
def test_trunks_are_read_under_both_names(net):
    tensors = trunk_tensors(net)
    want = trunk(net, tensors | {"classifier.6.weight": normal(2, 2)})
    renamed = {name.replace("features.", "net.slice3."): value for name, value in tensors.items()}
    got = trunk(net, renamed | {"lin0.model.1.weight": normal(1, 64, 1, 1), "scaling_layer.shift": normal(1, 3, 1, 1)})
    jax.tree.map(np.testing.assert_array_equal, got, want)
    layer, place = next(iter(TRUNKS[net].places.items()))
    kernel = want["params"][layer]["kernel"]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), tensors[f"features.{place}.weight"])
    with pytest.raises(UserError, match="file of another net"):
        trunk(net, trunk_tensors(NETS[NETS.index(net) - 1]))


@pytest.mark.parametrize("net", NETS)
def test_shipped_heads_fit_their_trunks(net):
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    taps = jax.eval_shape(lambda x: TRUNKS[net].module().init_with_output(jax.random.key(0), x)[0], x)
    shipped = shipped_heads(net)
    assert [w.shape for w in shipped] == [(tap.shape[-1],) for tap in taps]
    assert all(w.dtype == np.float32 and w.min() >= 0 and w.max() > 0 for w in shipped)
    for names in ("lin{}.model.1.weight", "lins.{}.model.1.weight"):
        tensors = {names.format(i): w.reshape(1, -1, 1, 1) for i, w in enumerate(shipped)}
        for ours, other in zip(heads(net, tensors), shipped, strict=True):
            np.testing.assert_array_equal(ours, other)
    with pytest.raises(UserError, match="negative"):
        heads(net, tensors | {"lins.0.model.1.weight": -tensors["lins.0.model.1.weight"]})
    with pytest.raises(UserError, match="lack tensor lin1"):
        heads(net, {"lin0.model.1.weight": tensors["lins.0.model.1.weight"]})


def lent(lender, places):
    """What a lender lends, on shardings like `places` of every leaf."""
    return lender.load(jax.tree.map(lambda _: places, lender.abstract))


def same_shapes(abstract, frozen):
    """The promise is kept: structure (with the model), shapes and dtypes, which are float32."""
    assert jax.tree.structure(abstract) == jax.tree.structure(frozen)
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, frozen)
    assert {a.dtype for a in jax.tree.leaves(frozen)} == {jnp.dtype("float32")}


@pytest.fixture
def everywhere():
    """Whole on every device of a mesh."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


@pytest.mark.parametrize("layout", [zip_file, stream_file])
def test_inception_lent_from_a_file(layout, tmp_path, everywhere):
    tensors, storages, path = inception_tensors(), Storages(), tmp_path / "mine.pth"
    path.write_bytes(layout(state_dict(tensors, storages), storages))
    lender = Inception(str(path))
    frozen = lent(lender, everywhere)
    same_shapes(lender.abstract, frozen)
    assert all(a.sharding == everywhere for a in jax.tree.leaves(frozen))
    jax.tree.map(np.testing.assert_array_equal, frozen.weights, inception(tensors))
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    assert jax.eval_shape(lambda frozen, x: frozen(x).pool3, lender.abstract, x).shape == (2, 2048)


def test_lpips_lent_from_a_file(tmp_path, everywhere):
    tensors, storages, path = trunk_tensors("alex"), Storages(), tmp_path / "mine.pth"
    path.write_bytes(stream_file(state_dict(tensors, storages), storages))
    lender = Lpips("alex", str(path))
    frozen = lent(lender, everywhere)
    same_shapes(lender.abstract, frozen)
    a, b = (jnp.asarray(RNG.uniform(-1, 1, (2, 40, 33, 3)), jnp.float32) for _ in range(2))
    module, variables = TRUNKS["alex"].module(), trunk("alex", tensors)
    want = lpips(*(jax.jit(module.apply)(variables, scale_images(x)) for x in (a, b)), shipped_heads("alex"))
    traces = []

    @jax.jit
    def distance(frozen, a, b):
        traces.append(path.unlink(missing_ok=True))  # nothing is read inside a trace
        return frozen(a, b)

    np.testing.assert_allclose(distance(frozen, a, b), want, rtol=1e-5)
    np.testing.assert_array_equal(distance(frozen, a, a), 0)
    assert len(traces) == 1
    seen = [
        jax.jit(frozen.model.features)(frozen.weights, x) for x in (a, b)
    ]  # LPIPS is the square of a distance of vectors
    np.testing.assert_allclose(np.square(seen[0] - seen[1]).sum(-1), want, rtol=1e-4)
    with pytest.raises(UserError, match="images of one size"):
        frozen(a, b[:, 1:])


def test_what_cannot_serve_is_named_before_it_is_read(tmp_path):
    role = Role(Distance, "distance of images")
    with pytest.raises(UserError, match=r"loss.perceptual is the pretrained net inception_fid.*no distance of images"):
        Inception().check("loss.perceptual", role, pictures((8, 8, 3)), None)
    with pytest.raises(UserError, match=r"1 or 3 channels, and the run's are \[8, 8, 4\]"):
        Lpips().check("loss.perceptual", role, pictures((8, 8, 4)), None)
    with pytest.raises(UserError, match=r"absent\.pth: no such file"):
        Lpips(path=str(tmp_path / "absent.pth")).check("loss.perceptual", role, pictures((8, 8, 3)), None)
    with pytest.raises(UserError, match="known: alex, vgg, squeeze"):
        Lpips("resnet").check("loss.perceptual", role, pictures((8, 8, 3)), None)
