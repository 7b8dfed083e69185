"""StyleGAN2-ADA's augmentations: each by itself at a percentile of its numbers, and whole pipes with the numbers drawn there."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erfinv

from jaxgen.methods.gan_augment import GROUPS, Drawn, Fixed, bands
from jaxgen.metrics.warp import SYM6

BANDS = [*GROUPS["filter"]]
ALL = {name: change for group in GROUPS.values() for name, change in group.items()}
# their changes, in the order in which their program draws, as ours
CHANGES = {
    "xflip": ["flip"], "rotate90": ["quarter"], "xint": ["jump"], "scale": ["scale"], "rotate": ["turn"],
    "aniso": ["stretch"], "rotate again": ["turn_again"], "xfrac": ["shift"], "brightness": ["brightness"],
    "contrast": ["contrast"], "lumaflip": ["luma_flip"], "hue": ["hue"], "saturation": ["saturation"],
    "imgfilter": BANDS, "noise": ["noise"], "cutout": ["cutout"],
}  # fmt: skip
SIZES = {
    "xint_max": "jump", "scale_std": "scale", "rotate_max": "turn", "aniso_std": "stretch", "xfrac_std": "shift",
    "brightness_std": "brightness", "contrast_std": "contrast", "hue_max": "hue", "saturation_std": "saturation",
    "imgfilter_std": "filter", "noise_std": "noise", "cutout_size": "cutout",
}  # fmt: skip
NEVER = 2.0  # a gate


def read(folder):
    """(case, arrays, images [B, H, W, C])."""
    case, arrays = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    return case, arrays, jnp.asarray(arrays["x"].transpose(0, 2, 3, 1))


def close(got, want, case, name):
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, **tolerance, err_msg=name)


def as_drawn(options, p, parts, x):
    """What their program drew, as ours. Theirs makes a change with a share of p: ours has a rarer gate instead."""
    numbers = {k: jnp.zeros((len(x), change.count)) for k, change in ALL.items()}
    gates, grain, parts = {k: jnp.full(len(x), NEVER) for k in ALL}, jnp.zeros(x.shape), iter(parts)
    rates = dict(zip(BANDS, options.get("imgfilter_bands", [1, 1, 1, 1]), strict=True))
    colourless = ("hue", "saturation") if x.shape[-1] == 1 else ()
    for option, names in CHANGES.items():
        share = options.get(option.removesuffix(" again"), 0)
        for name in names if share and option not in colourless else ():
            number, gate = next(parts), next(parts)
            if name == "noise":
                grain = jnp.asarray(next(parts).transpose(0, 2, 3, 1))
            elif name == "cutout":  # the other way round
                number, gate = gate, number
            number, rate = jnp.asarray(number.reshape(len(x), -1)), share * rates.get(name, 1)
            if name.startswith("turn"):  # two of them, of which one at least is made with that share
                rate = (1 - math.sqrt(1 - p * rate)) / (1 - math.sqrt(1 - p))
            numbers[name] = number[:, ::-1]  # theirs are (x, y)
            gates[name] = jnp.asarray(gate.reshape(len(x))) / rate
    assert next(parts, None) is None
    return Drawn(numbers, gates, grain)


@pytest.mark.golden("stylegan2_ada_augment*")
def test_whole_pipes(folder):
    case, arrays, x = read(folder)
    for name, pipe in case["pipes"].items():
        p, options = pipe["p"], pipe["options"]
        unknown = options.keys() - CHANGES.keys() - SIZES.keys() - {"imgfilter_bands"}
        assert not unknown, "options that this test does not read"
        parts = np.split(arrays[f"{name}_draws"], np.cumsum([math.prod(shape) for shape in pipe["shapes"]])[:-1])
        drawn = as_drawn(options, p, [a.reshape(shape) for a, shape in zip(parts, pipe["shapes"], strict=True)], x)
        sizes = {ours: options[theirs] for theirs, ours in SIZES.items() if theirs in options}
        augment = Fixed(pipe="bgcfnc", p=p, shape=x.shape[1:], **sizes)
        close(jax.jit(augment.change)(x, drawn, p), arrays[name], case, name)


@pytest.mark.golden("stylegan2_ada_augment*")
def test_each_change_at_a_percentile_of_its_numbers(folder):
    case, arrays, x = read(folder)
    x = x[:1]
    change = jax.jit(Fixed(pipe="bgcfnc", p=1.0, shape=x.shape[1:]).change)
    found = [key for key in arrays if key.partition("@")[0] in CHANGES]
    assert found
    for key in found:
        option, _, percentile = key.partition("@")
        q = float(percentile)
        normal = lambda name, q=q: erfinv(q if name == "noise" else 2 * q - 1)  # noqa: E731
        numbers = {k: jnp.full((1, c.count), q if c.of == "uniform" else normal(k)) for k, c in ALL.items()}
        grain = arrays.get(f"noise_draw@{percentile}", np.zeros((1, x.shape[3], *x.shape[1:3]))).transpose(0, 2, 3, 1)
        gates = {k: jnp.full(1, 0.0 if k in CHANGES[option] else NEVER) for k in ALL}
        close(change(x, Drawn(numbers, gates, grain), 1.0), arrays[key], case, key)


@pytest.mark.golden("stylegan2_ada_augment*")
def test_the_wavelets(folder):
    _, arrays, _ = read(folder)
    np.testing.assert_allclose(SYM6 / SYM6.sum(), arrays["Hz_geom"], rtol=1e-5)
    taps = arrays["Hz_fbank"]  # in the middle of a line that is longer than they are
    np.testing.assert_allclose(bands(99)[:, 49, 49 - 21 : 49 + 22], taps, atol=1e-6)
