"""EDM's state dicts: export then import is the identity, bit by bit, with several heads too; what we lack is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.edm_unet import Adm, DdpmPP, NcsnPP
from jaxgen.pretrained.edm import edm_module, from_edm, to_edm

TOLD = Spec(labels(3), augment=Field((2,), "float32", "embedding"))
SMALL = dict(shape=(8, 8, 3), conditions=TOLD, width=8, mults=(1, 2), blocks=1, attend=(8, 4))
CONFIG = dict(model_type="SongUNet", img_resolution=32, img_channels=3, label_dim=10)


def random_variables(module):
    x = jax.ShapeDtypeStruct((1, *module.shape), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(
    "module", [DdpmPP(**SMALL), NcsnPP(**SMALL), Adm(**SMALL, head_dim=4)], ids=["++", "ncsn", "adm"]
)
def test_export_then_import_is_the_identity(module):
    variables = random_variables(module)
    stored = to_edm(module, variables)
    assert len(stored) == len(jax.tree.leaves(variables))
    back = from_edm(module, stored)
    assert jax.tree.structure(back) == jax.tree.structure(dict(variables))
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_queries_keys_and_values_are_interleaved_within_each_head():
    module = Adm(**SMALL, head_dim=4)  # 16 channels at 4 x 4: 4 heads
    variables = random_variables(module)
    ours = variables["params"]["mid_block0"]["attend"]["qkv"]["bias"]
    theirs = to_edm(module, variables)["dec.4x4_in0.qkv.bias"]
    head, channel = 2, 3
    for which in range(3):
        assert theirs[(head * 4 + channel) * 3 + which] == ours[which * 16 + head * 4 + channel]


def test_options_choose_the_net():
    assert isinstance(edm_module(CONFIG), DdpmPP) and edm_module(CONFIG).mults == (1, 2, 2, 2)
    ncsnpp = dict(embedding_type="fourier", encoder_type="residual", channel_mult_noise=2, resample_filter=[1, 3, 3, 1])
    assert edm_module(CONFIG | ncsnpp) == NcsnPP(conditions=labels(10), mults=(1, 2, 2, 2), dropout=0.1)
    adm = dict(model_type="DhariwalUNet", img_resolution=64, label_dim=1000)
    assert edm_module(CONFIG | adm) == Adm(conditions=labels(1000))
    augmented = edm_module(CONFIG | dict(augment_dim=9)).conditions
    assert augmented == Spec(labels(10), augment=Field((9,), "float32", "embedding"))


@pytest.mark.parametrize(
    "option", [dict(decoder_type="skip"), dict(embedding_type="zero"), dict(model_type="UNet"), dict(colour=1)]
)
def test_options_that_we_lack_are_named(option):
    with pytest.raises(UserError, match=next(iter(option))):
        edm_module(CONFIG | option)


def test_what_does_not_fit_is_named():
    module = DdpmPP(**SMALL)
    stored = to_edm(module, random_variables(module))
    with pytest.raises(UserError, match=r"lack tensor map_layer1\.bias"):
        from_edm(module, {name: a for name, a in stored.items() if name != "map_layer1.bias"})
    with pytest.raises(UserError, match="another image size"):
        from_edm(module.clone(shape=(16, 16, 3)), stored)
