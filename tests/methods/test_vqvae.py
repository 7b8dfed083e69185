"""Vector quantisation: straight-through, codebooks that converge to k-means, and codes that do not die."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Quantizes, Reconstructs, Samples
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.losses.pixel_likelihood import Gaussian
from jaxgen.methods.vqvae import VqVae
from jaxgen.nets import quantize
from jaxgen.nets.autoencoder import ConvDecoder, ConvEncoder, VqVaeNet
from jaxgen.nets.quantize import EmaQuantizer, FsqQuantizer, GradientQuantizer, GumbelQuantizer, MultiscaleQuantizer

KEY = jax.random.key(0)


def blobs(num, centres, noise=0.05):
    """Points around the rows of `centres`, and which."""
    which = jax.random.randint(KEY, (num,), 0, len(centres))
    return centres[which] + noise * jax.random.normal(jax.random.key(1), (num, centres.shape[1])), which


CENTRES = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]])


def apply(quantizer, variables, z, rng=KEY, train=True):
    return quantizer.apply(variables, z, train=train, mutable=["codebook"], rngs={"codebook": rng})


def method(quantizer, shape=(8, 8, 1), width=16, lr=1e-3, downs=1):
    module = VqVaeNet(ConvEncoder(width, width, downs, 1), ConvDecoder(shape, width, width, downs, 1), quantizer)
    return VqVae(net=Net(module, optax.adam(lr)), spec=pictures(shape), likelihood=Gaussian(sigma=0.5))


def test_nearest_is_the_nearest():
    z, embed = jax.random.normal(KEY, (50, 3)) + 20.0, jax.random.normal(jax.random.key(1), (9, 3)) + 20.0
    want = ((z[:, None] - embed[None]) ** 2).sum(-1).argmin(-1)
    np.testing.assert_array_equal(quantize.nearest(z, embed), want)


QUANTIZERS = {
    "ema": EmaQuantizer(codes=5, dim=3),
    "gradient": GradientQuantizer(codes=5, dim=3),
    "legacy": GradientQuantizer(codes=5, dim=3, legacy=True),
    "cosine": GradientQuantizer(codes=5, dim=3, cosine=True, project=2),
    "gumbel": GumbelQuantizer(codes=5, dim=3),
    "multiscale": MultiscaleQuantizer(codes=5, dim=3, sizes=(1, 2)),
    "fsq": FsqQuantizer(levels=(5, 4, 2)),
}


@pytest.mark.parametrize("quantizer", [QUANTIZERS["ema"], QUANTIZERS["gradient"]], ids=type)
def test_straight_through(quantizer):
    """The Jacobian of the codes is the identity; codes are rows of the codebook; each loss pulls one side."""
    z = jax.random.normal(KEY, (2, 4, 3))
    variables = quantizer.init(KEY, z)

    def run(z, variables=variables):
        return quantizer.apply(variables, z)

    upstream = jax.random.normal(jax.random.key(1), z.shape)
    np.testing.assert_allclose(jax.grad(lambda z: (run(z).codes * upstream).sum())(z), upstream)
    q = run(z)
    looked_up = quantizer.apply(variables, q.ids, method="lookup")
    np.testing.assert_array_equal(q.codes, looked_up)
    np.testing.assert_allclose(jax.grad(lambda z: run(z).loss.sum())(z), 0.25 * 2 * (z - looked_up) / 12, atol=1e-6)


def test_a_sum_in_bfloat16_does_not_give_the_code_back_and_ours_does():
    z = 100.0 * jax.random.normal(KEY, (2, 4, 3))
    quantizer = EmaQuantizer(codes=5, dim=3)
    variables = quantizer.init(KEY, z)
    q = quantizer.apply(variables, z.astype(jnp.bfloat16))
    codes = quantizer.apply(variables, q.ids, method="lookup")
    half, coded = z.astype(jnp.bfloat16), codes.astype(jnp.bfloat16)
    assert (half + (coded - half) != coded).mean() > 0.3
    assert q.codes.dtype == jnp.float32
    np.testing.assert_array_equal(q.codes, codes)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_protocol(name):
    """Ids are in range, lookup gives what the decoder saw, nearest gives the ids back, gradients reach the features."""
    quantizer, z = QUANTIZERS[name], jax.random.normal(KEY, (3, 2, 2, 3))
    variables = quantizer.init(KEY, z)
    q = quantizer.apply(variables, z)
    for ids in jax.tree.leaves(q.ids):
        assert ids.dtype == jnp.int32 and (ids >= 0).all() and (ids < quantizer.codes).all()
    np.testing.assert_allclose(quantizer.apply(variables, q.ids, method="lookup"), q.codes, atol=1e-6)
    vectors = quantizer.apply(variables, q.ids, method="vectors")
    again = quantizer.apply(variables, vectors, method="nearest")
    if name == "multiscale":  # what is left of a sum need not choose the same codes
        again = quantizer.apply(variables, z, method="nearest")
    jax.tree.map(np.testing.assert_array_equal, again, q.ids)
    assert q.loss.shape == (3,) and {"perplexity", "usage"} <= set(q.metrics)

    def trained(z):
        rngs = {"codebook": KEY}
        q, new = quantizer.apply(variables, z, train=True, step=3, mutable=["codebook"], rngs=rngs)
        return (q.codes**2).sum(), (q, new)

    grad, (q, new) = jax.grad(trained, has_aux=True)(z)
    assert np.isfinite(grad).all() and (grad != 0).any()
    assert jax.tree.structure(new) == jax.tree.structure({k: v for k, v in variables.items() if k == "codebook"})


def test_gradient_codebook_moves_towards_its_encodings():
    quantizer = GradientQuantizer(codes=5, dim=3, beta=0.0)
    z = jax.random.normal(KEY, (2, 4, 3))
    variables = quantizer.init(KEY, z)
    loss = lambda p: quantizer.apply({**variables, "params": p}, z).loss.mean()  # noqa: E731
    params = variables["params"]
    grads = jax.grad(loss)(params)["embed"]
    assert loss({"embed": params["embed"] - 0.5 * grads}) < loss(params)
    without = GradientQuantizer(codes=5, dim=3, beta=0.0, legacy=True)  # its beta is of this very term
    assert (jax.grad(lambda p: without.apply({**variables, "params": p}, z).loss.mean())(params)["embed"] == 0).all()


def test_kmeans_finds_separate_clusters():
    z, which = blobs(400, CENTRES)
    run = jax.jit(lambda rng: quantize.kmeans(rng, z, 4))
    best = max(  # Lloyd's algorithm may start badly: one of a few starts must succeed
        (run(jax.random.key(i)) for i in range(6)),
        key=lambda c: -((z - c[quantize.nearest(z, c)]) ** 2).sum(),
    )
    means = jnp.stack([z[which == i].mean(0) for i in range(4)])
    np.testing.assert_allclose(best[quantize.nearest(means, best)], means, atol=1e-4)


def test_averages_converge_to_kmeans():
    """Batches of the same points for ever: every code becomes the mean of its cell, a fixed point of Lloyd's step."""
    z, _ = blobs(200, CENTRES, noise=0.5)
    quantizer = EmaQuantizer(codes=6, dim=2, decay=0.9, start="data", dead=0.0)
    variables = quantizer.init(KEY, z)

    @jax.jit
    def run(variables):
        return jax.lax.scan(lambda v, _: (apply(quantizer, v, z)[1], None), variables, None, length=400)[0]

    embed = run(variables)["codebook"]["embed"]
    number, total = quantize.assigned(z, quantize.nearest(z, embed), 6)
    used = number > 0
    assert used.sum() >= 4
    np.testing.assert_allclose(embed[used], (total / number[:, None])[used], atol=1e-3)


@pytest.mark.parametrize("cls", [EmaQuantizer, GradientQuantizer])
@pytest.mark.parametrize("start", ["kmeans", "data"])
def test_first_batch_starts_the_codebook(cls, start):
    z, _ = blobs(64, CENTRES)
    quantizer = cls(codes=8, dim=2, start=start, dead=0.0)
    variables = quantizer.init(KEY, z)
    assert not variables["codebook"]["ready"]
    q, new = jax.jit(lambda v: apply(quantizer, v, z))(variables)
    new = {**variables, **new}
    assert new["codebook"]["ready"] and float(q.metrics["commitment"].mean()) < 0.01
    if start == "data":  # each code is a point
        assert float(((q.codes[:, None] - z[None]) ** 2).sum(-1).min(1).max()) < 1e-9
    else:  # the averages that k-means leaves are where they would stay
        book = quantizer.apply(new, method="book")
        _, after = jax.jit(lambda v: apply(quantizer, v, z))(new)
        np.testing.assert_allclose(quantizer.apply({**variables, **after}, method="book"), book, atol=1e-3)
    again, _ = jax.jit(lambda v: apply(quantizer, v, z + 100.0))(new)
    assert float(again.metrics["commitment"].mean()) > 1000.0  # the second batch starts nothing


def test_dead_codes_restart_on_the_data_and_live_ones_stay():
    z, _ = blobs(64, CENTRES)
    far = jnp.full((4, 2), 500.0)
    book = quantize.fresh(jnp.concatenate([CENTRES, far]), 64)
    book = book.replace(count=book.count.at[4:].set(0.01))
    new = quantize.restart(book, z, KEY, 0.1)
    np.testing.assert_array_equal(new.embed[:4], CENTRES)
    assert all((jnp.abs(z - row).sum(-1) < 1e-6).any() for row in new.embed[4:])
    assert len(np.unique(new.embed[4:], axis=0)) == 4  # distinct rows
    same = quantize.restart(book, z, KEY, 0.1)
    np.testing.assert_array_equal(new.embed, same.embed)  # the key decides
    untouched = quantize.restart(book, z, KEY, 0.0)
    np.testing.assert_array_equal(untouched.embed, book.embed)


@pytest.mark.parametrize("cls", [EmaQuantizer, GradientQuantizer])
def test_restart_fills_a_collapsed_codebook(cls):
    """All codes in one corner: without restarts three of four clusters share a code for ever."""
    z, _ = blobs(256, CENTRES)
    used = {}
    for dead in (0.0, 0.1):
        quantizer = cls(codes=4, dim=2, decay=0.8, start="normal", dead=dead)
        embed = jnp.array([[1.5, 1.5], [50.0, 50.0], [60.0, 60.0], [70.0, 70.0]])
        variables = quantizer.init(KEY, z)
        book = {**variables["codebook"], "ready": jnp.ones((), bool)}
        if cls is EmaQuantizer:
            variables = {"codebook": {**book, "embed": embed, "sum": embed}}
        else:
            variables = {"params": {"embed": embed}, "codebook": book}
        step = jax.jit(lambda v, k, quantizer=quantizer: apply(quantizer, v, z, k))
        for i in range(60):
            q, new = step(variables, jax.random.fold_in(KEY, i))
            variables |= new
        used[dead] = float(q.metrics["usage"])
    assert used == {0.0: 0.25, 0.1: 1.0}


def test_the_temperature_falls_and_the_weight_of_the_divergence_rises_by_step():
    quantizer = GumbelQuantizer(codes=4, dim=2, anneal=100)
    found = [float(quantizer.temperature(step)) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(found, [1.0, 0.5 + 1 / 32, 1 / 16, 1 / 16], rtol=1e-6)
    quantizer = GumbelQuantizer(codes=4, dim=2, kl_weight=0.5, kl_ramp=100)
    np.testing.assert_allclose([quantizer.weight(s) for s in (0, 50, 100, 1000)], [0.0, 0.25, 0.5, 0.5], atol=1e-6)


def test_rounded_numbers_take_every_level():
    """As many codes as combinations, each found again; far outside the ends are met."""
    quantizer = FsqQuantizer(levels=(3, 4, 2))
    ids = jnp.arange(24)
    vectors = quantizer.apply({}, ids, method="vectors")
    assert len(np.unique(vectors, axis=0)) == 24
    np.testing.assert_array_equal(quantizer.apply({}, vectors, method="nearest"), ids)
    z = jnp.stack(jnp.meshgrid(*[jnp.linspace(-5, 5, 41)] * 3), -1).reshape(1, -1, 3)
    assert len(np.unique(quantizer.apply({}, z).ids)) == 24
    np.testing.assert_allclose(quantizer.apply({}, jnp.zeros((1, 1, 3))).codes, 0.0, atol=1e-6)  # zero stays


def test_a_pyramid_of_all_scales_says_more_than_its_first():
    z = jax.random.normal(KEY, (4, 4, 4, 3))
    quantizer = MultiscaleQuantizer(codes=64, dim=3, sizes=(1, 2, 4), mix=0.0)
    variables, step = jax.jit(quantizer.init)(KEY, z), jax.jit(lambda v, rng: apply(quantizer, v, z, rng)[1])
    for i in range(3):
        variables = {**variables, **step(variables, jax.random.fold_in(KEY, i))}
    ids = jax.jit(lambda v: quantizer.apply(v, z).ids)(variables)
    sums = jax.jit(lambda v: quantizer.apply(v, ids, method="sums"))(variables)
    left = [float(((z - said) ** 2).mean()) for said in sums]
    assert left[2] < 0.6 * left[1] < 0.6 * left[0]


@pytest.mark.parametrize(
    "quantizer, message",
    [
        (
            EmaQuantizer(codes=9, dim=3),
            r"8 encodings in a batch are too few for k-means of 9 codes; set start=data",
        ),
        (MultiscaleQuantizer(codes=2, dim=3, sizes=(2, 2)), r"must grow; set sizes=\(2,\)"),
        (
            MultiscaleQuantizer(codes=2, dim=3, sizes=(1, 4)),
            r"must be that of the features, 2x2; set sizes=\(1, 2\)",
        ),
        (MultiscaleQuantizer(codes=2, dim=3, sizes=(1, 2), project=2), "set project=0"),
    ],
)
def test_what_does_not_fit_is_named(quantizer, message):
    with pytest.raises(UserError, match=message):
        quantizer.init(KEY, jnp.zeros((2, 2, 2, 3)))


def test_perplexity_and_usage():
    found = quantize.occupancy(jnp.array([[0, 0, 1, 1]]), 8)
    np.testing.assert_allclose(found["perplexity"], 2.0, rtol=1e-5)
    assert float(found["usage"]) == 0.25


def test_wrong_start_is_named():
    with pytest.raises(UserError, match="kmeans, data, normal"):
        EmaQuantizer(start="k-means", dim=2).init(KEY, jnp.zeros((1, 2)))


def test_capabilities_shapes_and_evaluation_leaves_the_codebook_alone():
    vq = method(EmaQuantizer(codes=8, dim=4), shape=(7, 10, 3))
    batch = {"image": jax.random.randint(KEY, (4, 7, 10, 3), 0, 256).astype(jnp.uint8)}
    assert isinstance(vq, Reconstructs) and isinstance(vq, Quantizes) and not isinstance(vq, Samples)
    state, metrics = jax.jit(lambda: vq.train_step(vq.init(KEY, batch), batch, KEY))()
    assert {"loss", "mse", "nll", "commitment", "perplexity", "usage"} <= set(metrics)
    w = state.view()
    ids = jax.jit(vq.encode)(w, batch["image"], KEY)
    assert ids.shape == (4, 4, 5) and ids.dtype == jnp.int32
    np.testing.assert_allclose(jax.jit(vq.decode)(w, ids), jax.jit(vq.reconstruct)(w, batch, KEY), atol=1e-6)
    after = jax.jit(lambda: vq.loss(w, batch, KEY, False).vars)()
    jax.tree.map(np.testing.assert_array_equal, after, state.nets["net"].vars)
    assert all(v.shape == (4,) for v in jax.eval_shape(vq.eval_step, w, batch, KEY).values())


@pytest.mark.parametrize("quantizer", [EmaQuantizer(codes=8, dim=4), GradientQuantizer(codes=8, dim=4)], ids=type)
def test_vectors_and_the_nearest_of_them(quantizer):
    vq = method(quantizer)
    batch = {"image": jax.random.randint(KEY, (4, 8, 8, 1), 0, 256).astype(jnp.uint8)}
    w = jax.jit(lambda: vq.train_step(vq.init(KEY, batch), batch, KEY))()[0].view()
    ids = jnp.arange(vq.codes).reshape(2, 2, 2)
    vectors = jax.jit(vq.vectors)(w, ids)
    assert vectors.shape == (2, 2, 2, 4) and vectors.dtype == jnp.float32
    nearest = jax.jit(vq.nearest)
    np.testing.assert_array_equal(nearest(w, vectors), ids)
    gaps = jnp.linalg.norm(vectors.reshape(8, 1, 4) - vectors.reshape(1, 8, 4) + 1e9 * jnp.eye(8)[..., None], axis=-1)
    step = (
        0.49 * float(gaps.min()) * jax.nn.one_hot(jnp.arange(8) % 4, 4).reshape(vectors.shape)
    )  # stays in the code's cell
    np.testing.assert_array_equal(nearest(w, vectors + step), ids)
    out = vq.net.module.apply(w.nets["net"], vectors, 1, method=lambda net, z, channels: net.decoder(z, channels))
    np.testing.assert_allclose(vq.decode(w, ids), vq.likelihood.mean(out), atol=1e-6)


def test_learns_digits(digits):
    vq = method(EmaQuantizer(codes=32, dim=8), width=24, lr=2e-3)

    @jax.jit
    def run(state):
        def step(state, i):
            rng = jax.random.fold_in(KEY, i)
            rows = jax.random.randint(rng, (64,), 0, len(digits["train"]))
            return vq.train_step(state, {"image": digits["train"][rows]}, rng)

        return jax.lax.scan(step, state, jnp.arange(200))

    state, metrics = run(jax.jit(vq.init)(KEY, {"image": digits["train"][:64]}))
    out = jax.jit(vq.eval_step)(state.view(), {"image": digits["eval"]}, KEY)
    assert float(out["mse"].mean()) < 0.08  # the variance of the pixels is 0.56
    ids = jax.jit(vq.encode)(state.view(), digits["eval"], KEY)
    assert len(np.unique(ids)) > 16 and float(metrics["perplexity"][-1]) > 8
