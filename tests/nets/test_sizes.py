"""Published nets have the published number of parameters; shapes are traced and nothing is computed."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.nets import dit, edm2_unet
from jaxgen.nets.dit import DiT
from jaxgen.nets.edm2_unet import Edm2UNet
from jaxgen.nets.edm_unet import Adm, DdpmPP
from jaxgen.nets.gan import DcganGenerator
from jaxgen.nets.gan_resnet import ResnetDiscriminator, ResnetGenerator
from jaxgen.nets.inception import InceptionV3
from jaxgen.nets.trunks import VGG16, AlexNet, SqueezeNet
from jaxgen.nets.unet import UNet


def size(module, *shapes):
    """(the module's output, its parameters) for inputs of these shapes."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *inputs)
    return out, sum(a.size for a in jax.tree.leaves(variables["params"]))


TOLD, AUGMENTED = labels(1000), Spec(augment=Field((9,), "float32", "embedding"))
ADM = dict(conditions=TOLD, width=256, blocks=2, out_channels=6)
DITS = dict(S="33", B="130", L="458", XL="675")  # Peebles & Xie 2023, table 1
EDM2 = dict(XS="125", S="280", M="498", L="777", XL="1119", XXL="1523")  # Karras et al. 2024, table 2
UNETS = [
    (UNet(), "35.7"),  # Ho et al. 2020, appendix B: CIFAR-10
    (UNet(shape=(256, 256, 3), mults=(1, 1, 2, 2, 4, 4)), "114"),  # the same: LSUN and CelebA-HQ
    (DdpmPP(conditions=AUGMENTED), "55.7"),  # Karras et al. 2022, appendix F: CIFAR-10
    (Adm(conditions=TOLD, out_channels=6), "296"),  # Dhariwal & Nichol 2021, appendix I: ImageNet at 64 x 64,
    (Adm(shape=(128, 128, 3), mults=(1, 1, 2, 3, 4), **ADM), "422"),  # 128 x 128
    (Adm(shape=(256, 256, 3), mults=(1, 1, 2, 2, 4, 4), **ADM), "554"),  # and 256 x 256
]


@pytest.mark.parametrize(
    ("module", "millions"),
    [
        *UNETS,
        *(
            (DiT(shape=(32, 32, 4), conditions=TOLD, out_channels=8, **dit.SIZES[n]), count)
            for n, count in DITS.items()
        ),
        *((Edm2UNet(conditions=TOLD, width=edm2_unet.SIZES[n]), count) for n, count in EDM2.items()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_nets_of_diffusion(module, millions):
    out, count = size(module, (2, *module.shape), (2,))
    assert f"{count / 1e6:.{len(millions.partition('.')[2])}f}" == millions
    assert out.shape == (2, *module.shape[:2], module.out_channels or module.shape[2])


@pytest.mark.parametrize("name", DITS)
def test_scanned_transformers_and_other_patches(name):
    module = DiT(shape=(32, 32, 4), conditions=TOLD, out_channels=8, **dit.SIZES[name])
    _, count = size(module, (2, 32, 32, 4), (2,))
    assert size(module.clone(scan=True), (2, 32, 32, 4), (2,))[1] == count
    for patch in (4, 8):  # only the ends know the patch
        grown = (patch**2 - 4) * (4 * module.width + 8 * module.width + 8)
        assert size(module.clone(patch=patch), (2, 32, 32, 4), (2,))[1] == count + grown


def test_nets_of_gans():
    """DCGAN's generator for 64x64 is 100-1024-512-256-128-3; WGAN-GP's CIFAR-10 nets have 128 channels, SNGAN's generator 256."""
    kernels = 100 * 4 * 4 * 1024 + 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    _, count = size(DcganGenerator(shape=(64, 64, 3), width=128), (1, 100))
    assert count == kernels + 2 * (1024 + 512 + 256 + 128) + 3
    block = 2 * (9 * 128 * 128 + 128)
    first = (9 * 3 * 128 + 128) + (9 * 128 * 128 + 128) + (3 * 128 + 128)
    _, count = size(ResnetDiscriminator(width=128), (1, 32, 32, 3))
    assert count == first + 3 * block + (128 * 128 + 128) + 128 + 1
    block = (9 * 256 * 256) + (9 * 256 * 256 + 256) + (256 * 256 + 256) + 4 * 256  # two norms have a shift and a scale
    _, count = size(ResnetGenerator(width=256), (1, 128))
    assert count == 129 * 16 * 256 + 3 * block + 2 * 256 + (9 * 256 * 3 + 3)


def test_feature_nets():
    """torchvision's counts without the layers after the last tap; Inception has 1008 classes and no auxiliary head."""
    for module, count in ((VGG16(), 14_714_688), (AlexNet(), 2_469_696), (SqueezeNet(), 722_496)):
        assert size(module, (1, 64, 64, 3))[1] == count
    scales = 17_216  # one for each channel, folded into the kernels
    assert size(InceptionV3(), (1, 299, 299, 3))[1] == 23_850_960 - scales
