"""Structural similarity: SSIM (Wang et al. 2004, eq. 13) and its multi-scale form MS-SSIM (Wang et al. 2003, eq. 7).

    l  = (2 m_a m_b + c1) / (m_a^2 + m_b^2 + c1)     cs = (2 s_ab + c2) / (s_a^2 + s_b^2 + c2)
    SSIM = mean l cs,   MS-SSIM = prod_j (mean cs_j)^w_j (mean l cs)^w_5,   c1 = (0.01 L)^2, c2 = (0.03 L)^2

with means, variances and covariance under a sliding window. Published numbers differ by up to 0.01 in the window:

    gaussian  11 x 11, sigma 1.5, only where it fits        Wang's own; scikit-image (gaussian_weights, sigma=1.5,
                                                            use_sample_covariance=False); pytorch-msssim
    uniform   7 x 7 means, sample covariance (N - 1)        scikit-image's default
    padded    the Gaussian over the mirrored image          torchmetrics

Windows are sums of shifted images, so no matrix unit rounds them, and images are shifted to mean 0 beforehand, since
E[x^2] - E[x]^2 of float32 would lose what contrast there is in bright flat regions.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.pixel import BYTES, Span, frame_by_frame, levels

Array = jax.Array

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
C1, C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2


@dataclass(frozen=True)
class Convention:
    """A window [n] applied along both axes, what covariances are multiplied by, and whether images are mirrored first."""

    window: tuple[float, ...]
    sample: float = 1.0
    mirrored: bool = False


def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return tuple((taps / taps.sum()).tolist())


CONVENTIONS = {
    "gaussian": Convention(_gaussian(11, 1.5)),
    "uniform": Convention((1 / 7,) * 7, sample=49 / 48),
    "padded": Convention(_gaussian(11, 1.5), mirrored=True),
}


@frame_by_frame
@partial(jax.jit, static_argnames=("span", "convention"))
def ssim(a: Array, b: Array, span: Span = BYTES, convention: str = "gaussian") -> Array:
    """Similarity [B], 1 for the same image, of [B, H, W, C] images within `span`; channels are measured apart and averaged."""
    rule = _rule(convention, ("gaussian", "uniform", "padded"))
    a, b = levels(a, span), levels(b, span)
    _fits(a, len(rule.window), len(rule.window), convention)
    similarity, _ = _maps(a, b, rule)
    return similarity.mean((1, 2, 3))


@frame_by_frame
@partial(jax.jit, static_argnames=("span", "convention"))
def ms_ssim(a: Array, b: Array, span: Span = BYTES, convention: str = "gaussian") -> Array:
    """Multi-scale similarity [B] over five halvings of [B, H, W, C] images larger than 160 pixels.

    gaussian: per channel, then averaged; an odd border is mirrored (Wang; pytorch-msssim where all sizes are even).
    padded: factors averaged over channels before their product; an odd border is dropped (torchmetrics).
    Negative factors count as 0, since they have no real power.
    """
    rule = _rule(convention, ("gaussian", "padded"))
    a, b = levels(a, span), levels(b, span)
    margin = len(rule.window) // 2
    _fits(a, 2 * margin * 2 ** (len(WEIGHTS) - 1) + 1, len(rule.window), convention)
    axes = (1, 2, 3) if rule.mirrored else (1, 2)
    product: Array | float = 1.0
    for level, weight in enumerate(WEIGHTS):
        similarity, contrast = _maps(a, b, rule)
        if level == len(WEIGHTS) - 1:
            factor = similarity
        else:
            factor = contrast[:, margin:-margin, margin:-margin] if rule.mirrored else contrast
            a, b = _halved(a, rule.mirrored), _halved(b, rule.mirrored)
        product = product * jnp.maximum(factor.mean(axes), 0.0) ** weight
    return product if rule.mirrored else product.mean(-1)


def _rule(convention: str, known: tuple[str, ...]) -> Convention:
    if convention not in known:
        raise UserError(f"convention={convention!r} is unknown here; there are: {', '.join(known)}")
    return CONVENTIONS[convention]


def _fits(x: Array, least: int, window: int, convention: str) -> None:
    if min(x.shape[1:3]) < least:
        raise UserError(
            f"images of {x.shape[1]} x {x.shape[2]} pixels are too small for the {window} x {window} window of "
            f"convention {convention!r}; both sides must be at least {least}"
        )


def _maps(a: Array, b: Array, rule: Convention) -> tuple[Array, Array]:
    """l cs and cs at every place of the window [B, H', W', C]."""
    centre = (a + b).mean((1, 2), keepdims=True) / 2.0  # [B, 1, 1, C]
    a, b = a - centre, b - centre
    if rule.mirrored:
        pad = len(rule.window) // 2
        a, b = (jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect") for x in (a, b))
    mean_a, mean_b, aa, bb, ab = jnp.split(_blur(jnp.concatenate([a, b, a * a, b * b, a * b]), rule.window), 5)
    var = rule.sample * (aa - mean_a * mean_a + bb - mean_b * mean_b)
    cov = rule.sample * (ab - mean_a * mean_b)
    mean_a, mean_b = mean_a + centre, mean_b + centre
    contrast = (2.0 * cov + C2) / (var + C2)
    return (2.0 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1) * contrast, contrast


def _blur(x: Array, taps: tuple[float, ...]) -> Array:
    """[B, H, W, C] -> weighted means [B, H - n + 1, W - n + 1, C] over n x n pixels."""
    for axis in (1, 2):
        room = x.shape[axis] - len(taps) + 1
        x = sum(tap * jax.lax.slice_in_dim(x, i, i + room, axis=axis) for i, tap in enumerate(taps))
    return x


def _halved(x: Array, dropped: bool) -> Array:
    """Means of 2 x 2 pixels; an odd last row or column is dropped, or mirrored."""
    _, height, width, _ = x.shape
    if dropped:
        x = x[:, : height - height % 2, : width - width % 2]
    else:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="symmetric")
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4.0
