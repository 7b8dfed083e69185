"""JPEG there and back: the bits of libjpeg-turbo at every quality, with chroma halved and whole, of colour and of grey."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.degradations.jpeg import tables, through


@pytest.mark.golden("jpeg")
def test_pictures_are_libjpegs(folder):
    """All 4:4:4 and grey pixels to the bit; 4:2:0 to the bit too. One program for all qualities of a size."""
    case, a = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    qualities = case["config"]["qualities"]
    for quality, want in case["quantization_tables"].items():
        got = tables(jnp.array([int(quality)]))
        for i, table in enumerate(got):
            np.testing.assert_array_equal(np.asarray(table).ravel(), want[str(i)])
    run = jax.jit(through, static_argnums=2)
    for k in range(len(case["config"]["sizes"])):
        x = jnp.asarray(a[f"x{k}"], jnp.int32)
        several = jnp.broadcast_to(x, (len(qualities), *x.shape))
        for half, name in ((True, "420"), (False, "444")):
            got = np.asarray(run(several, jnp.array(qualities), half))
            for one, quality in zip(got, qualities, strict=True):
                np.testing.assert_array_equal(one, a[f"y{k}_q{quality}_{name}"], err_msg=f"{k} {quality} {name}")
        grey = run(x[None, ..., :1], jnp.array([40]), True)
        np.testing.assert_array_equal(np.asarray(grey)[0, ..., 0], a[f"grey{k}_q40"])
