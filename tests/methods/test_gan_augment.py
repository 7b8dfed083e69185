"""What D sees: the identity at p = 0 to the bit, no leak below p = 1, colours of 1, 3 and 4 channels, and p led by r_t."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.methods.gan_augment import GROUPS, Ada, DiffAugment, Fixed, NoAugment

KEY = jax.random.key(0)
WHOLE = "bgcfnc"


def noise(shape, key=KEY):
    return jax.random.uniform(key, shape, minval=-1.0)


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 8, 3), (5, 9, 4)], ids=str)
def test_at_p_0_nothing_changes_to_the_bit_and_neither_does_a_gradient(shape):
    x, weights = noise((2, 6, *shape))
    augment = Ada(pipe=WHOLE, shape=shape)
    see = jax.jit(lambda x: augment(x, KEY, augment.start()))
    np.testing.assert_array_equal(see(x), x)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: (see(x) * weights).sum()))(x), weights)


def test_an_image_that_nothing_was_drawn_for_passes_untouched_among_others():
    x = noise((400, 6, 8, 3))
    augment = Fixed(pipe=WHOLE, p=0.06, shape=(6, 8, 3))
    seen = np.asarray(jax.jit(lambda x: augment(x, KEY, {}))(x))
    gates = np.stack([*augment.draw(KEY, x.shape).gates.values()])
    still = (gates >= 0.06).all(0)
    assert 0.15 < still.mean() < 0.6
    np.testing.assert_array_equal(seen[still], x[still])
    changed = np.abs(seen - x).max((1, 2, 3))[~still] > 1e-4
    assert changed.mean() > 0.8  # what is drawn may be the identity: an upright flip, no quarter turned


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_no_leak_below_p_1(p):
    """Of 100,000 images the unchanged are more than those of any one change: G finds what is commonest."""
    shape = (100_000, 16, 16, 3)
    drawn = jax.jit(lambda: Fixed(pipe="bgc", p=p).draw(KEY, shape))()

    def commonest(rows):
        counts = Counter(map(bytes, np.asarray(rows) + 0.0))
        (first, most), (_, second) = counts.most_common(2)
        return np.frombuffer(first, np.float32), most / second

    for pipe, surplus in (("blit", 1.1), ("geom", 4)):
        found, ratio = commonest(Fixed(pipe=pipe, p=p).inverse(drawn, p, shape).reshape(-1, 6))
        np.testing.assert_array_equal(found, np.eye(2, 3).ravel())
        assert ratio > surplus, pipe
    flipped = Fixed(pipe="color", p=p, brightness=0, contrast=0, hue=0, saturation=0)
    found, ratio = commonest(flipped.colours(drawn, p, 3)[0].reshape(-1, 9))
    np.testing.assert_allclose(found, np.eye(3).ravel(), atol=1e-6)
    assert ratio > 1.1
    flips = np.asarray(drawn.gates["flip"] < p) & (np.asarray(drawn.numbers["flip"])[:, 0] >= 0.5)
    assert abs(flips.mean() - p / 2) < 0.01
    turned = Fixed(pipe="geom", p=p, scale=0, stretch=0, shift=0).inverse(drawn, p, shape)
    assert abs((turned != jnp.eye(2, 3)).any((1, 2)).mean() - p) < 0.01  # one of two rotations at least


def test_at_p_1_it_leaks():
    """Mirrored and upright images are equally many: nothing tells G which are real."""
    drawn = Fixed(pipe="blit", p=1.0, jump=0).draw(KEY, (100_000, 8, 8, 3))
    inverse = np.asarray(Fixed(pipe="blit", p=1.0, jump=0).inverse(drawn, 1.0, (100_000, 8, 8, 3)))
    shares = np.array([*Counter(map(bytes, np.round(inverse + 0.0, 4))).values()]) / 100_000
    np.testing.assert_allclose(shares, 1 / 8, atol=0.005)


def test_every_number_is_drawn_by_itself():
    """Uniform or normal, gates too, and no two alike."""
    drawn = Fixed(pipe=WHOLE, p=1.0).draw(KEY, (20_000, 2, 2, 1))
    kinds = {name: change.of for group in GROUPS.values() for name, change in group.items()}
    for name, number in drawn.numbers.items():
        assert ((number >= 0) & (number < 1)).all() == (kinds[name] == "uniform"), name
        centre, deviation = (0.5, 12**-0.5) if kinds[name] == "uniform" else (0.0, 1.0)
        np.testing.assert_allclose([number.mean(), number.std()], [centre, deviation], atol=0.02)
    rows = np.concatenate([*(n.T for n in drawn.numbers.values()), np.stack([*drawn.gates.values()])])
    assert len(drawn.gates) == 19 and np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 0.035
    assert abs(float(drawn.grain.std()) - 1) < 0.02


def test_colours_of_grey_and_of_transparent_images():
    grey = noise((64, 6, 6, 1))
    sees = {c: jax.jit(lambda x, c=c: Fixed(pipe="color", p=0.7, shape=(6, 6, c))(x, KEY, {})) for c in (1, 3, 4)}
    np.testing.assert_allclose(jnp.tile(sees[1](grey), 3), sees[3](jnp.tile(grey, 3)), atol=2e-5)
    rgba = noise((64, 6, 6, 4))
    seen = sees[4](rgba)
    np.testing.assert_allclose(seen[..., :3], sees[3](rgba[..., :3]), atol=1e-6)
    np.testing.assert_array_equal(seen[..., 3], rgba[..., 3])
    moved = [jax.jit(lambda x: Fixed(pipe="bg", p=0.9)(x, KEY, {}))(x) for x in (rgba, rgba[..., 3:])]
    np.testing.assert_allclose(moved[0][..., 3:], moved[1], atol=1e-6)
    assert np.abs(moved[1] - rgba[..., 3:]).max() > 0.1


@pytest.mark.parametrize("channels", [2, 5])
def test_colours_of_other_images_are_refused(channels):
    with pytest.raises(UserError, match=rf"images of {channels} channels have none .* set method.augment.pipe=bg"):
        Ada(shape=(8, 8, channels))
    assert Fixed(pipe="bg", p=1.0, shape=(8, 8, channels))(noise((3, 8, 8, channels)), KEY, {}).shape[-1] == channels


def test_p_follows_the_signs_of_logits_between_0_and_1():
    augment = Ada(p=0.25, target=0.5, ramp=100, every=3)
    adapt = jax.jit(augment.adapt)
    rng, memory, p, signs = np.random.default_rng(0), augment.start(), 0.25, []
    for step in range(30):
        logits = rng.normal(1.5 if step < 18 else -0.5, 1.0, 8).astype(np.float32)
        memory, signs = adapt(memory, logits, step), [*signs, *np.sign(logits)]
        if step % 3 == 2:
            p, signs = np.clip(p + np.sign(np.mean(signs) - 0.5) * len(signs) / 100, 0, 1), []
        np.testing.assert_allclose([memory["p"], memory["count"]], [p, len(signs)], atol=1e-6)
        if step == 17:
            assert p == 1.0
    assert 0 <= p < 0.1


def test_gradients_of_gradients_are_those_of_finite_differences():
    """R1 sees D through the whole pipe."""
    with jax.enable_x64(True):
        x, weights, step = jax.random.normal(KEY, (3, 4, 6, 5, 3), jnp.float64)
        augment = Fixed(pipe=WHOLE, p=0.9, shape=(6, 5, 3))
        drawn = jax.tree.map(lambda v: v.astype(jnp.float64), augment.draw(KEY, x.shape))

        @jax.jit
        def slope(h):
            critic = lambda x: (jnp.tanh(augment.change(x, drawn, 0.9)) * weights).sum()  # noqa: E731
            return (jax.grad(critic)(x + h * step) ** 2).sum()

        numeric = (slope(1e-5) - slope(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.grad(slope))(0.0), numeric, rtol=1e-6)


@pytest.mark.parametrize(
    "augment", [Fixed(pipe=WHOLE, p=0.9, shape=(8, 6, 3)), DiffAugment()], ids=lambda a: type(a).__name__
)
def test_no_image_depends_on_another(augment):
    x = noise((4, 8, 6, 3))
    see = jax.jit(lambda x: augment(x, KEY, {}))
    other = see(x.at[2].set(-x[2])) - see(x)
    assert (np.abs(other).max((1, 2, 3)) > 0).tolist() == [False, False, True, False]


NONE = dict(brightness=0.0, saturation=0.0, contrast=0.0, shift=0.0, cutout=0.0)


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 8, 3), (5, 9, 4)], ids=str)
def test_diffaugment_of_no_strength_is_the_identity(shape):
    x = noise((6, *shape))
    np.testing.assert_array_equal(jax.jit(lambda x: DiffAugment(**NONE)(x, KEY, {}))(x), x)


def test_diffaugment_does_what_its_paper_says():
    x = noise((2_000, 8, 16, 3))

    def see(**changes):
        return np.asarray(jax.jit(lambda x: DiffAugment(**NONE | changes)(x, KEY, {}))(x))

    added = (see(brightness=0.5) - x).mean((1, 2, 3))
    assert -0.5 <= added.min() < -0.48 and 0.48 < added.max() <= 0.5
    vivid, grey = see(saturation=1.0), x.mean(-1, keepdims=True)
    times = ((vivid - grey) * (x - grey)).sum((1, 2, 3)) / ((x - grey) ** 2).sum((1, 2, 3))
    assert 0 <= times.min() < 0.02 and 1.98 < times.max() <= 2.0
    ratio = see(contrast=0.5).std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.5 <= ratio.min() < 0.52 and 1.48 < ratio.max() <= 1.5
    padded = np.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)))
    places = {(i, j): padded[:, i : i + 8, j : j + 16] for i in range(3) for j in range(5)}
    found = Counter(
        next(k for k, v in places.items() if (v[n] == image).all()) for n, image in enumerate(see(shift=0.125))
    )
    assert len(found) == 15 and min(found.values()) > 80  # of 133
    holes = (see(cutout=0.5) == 0).all(-1)
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert (holes.sum((1, 2)) == rows * columns).all()  # rectangles
    assert rows.max() == 4 and columns.max() == 8 and rows.min() == 2 and columns.min() == 4  # cut off by the border
    rgba = noise((4, 8, 8, 4))
    seen = jax.jit(lambda x: DiffAugment(**NONE | {"brightness": 0.5, "contrast": 0.5, "saturation": 1.0})(x, KEY, {}))(
        rgba
    )
    np.testing.assert_array_equal(seen[..., 3], rgba[..., 3])


def test_probabilities_for_the_log():
    assert [a.probability(a.start()) for a in (NoAugment(), Fixed(p=0.3), DiffAugment(), Ada(p=0.25))] == [
        0,
        0.3,
        1,
        0.25,
    ]
