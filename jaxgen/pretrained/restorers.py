"""Published nets that restore or enlarge <-> ours: DnCNN (its authors', KAIR), FFDNet (KAIR), SRCNN, EDSR (its authors', BasicSR),
MSRResNet (BasicSR), RRDB (ESRGAN's old names; BasicSR's, which Real-ESRGAN has too). Files are dicts of tensors, perhaps below
`params_ema` or `params`; which net it is, its widths and depths, are read off them.
"""

import re
from collections.abc import Callable
from pathlib import Path as File
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.dncnn import DnCnn, FfdNet
from jaxgen.nets.restorer import Restorer
from jaxgen.nets.super_resolution import DIV2K, Edsr, Rrdb, Srcnn, SrResNet
from jaxgen.pretrained import layout
from jaxgen.pretrained.layout import Path, Tensors, fill, suffix
from jaxgen.pretrained.torch_files import read_tensors, write_tensors

ROOTS = ("params_ema.", "params.", "state_dict.", "module.")  # in front of all names of some files
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Published(NamedTuple):
    """A net and its variables, and the form of the file that it came from (a key of FORMS)."""

    module: Restorer
    variables: Any
    form: str


# ----------------------------------------------------------------------------------------------------------------------
# Our leaf -> the name of its tensor


def _rows(layers: Callable[[DnCnn | FfdNet], dict[str, int]], stem: str) -> Callable:
    """Of nets whose layers are numbered in a torch Sequential."""

    def names(module: Any) -> Callable[[Path], list[str]]:
        known = layers(module)
        return lambda path: [f"{stem}{known[path[-2]]}.{NORM.get(path[-1], 'weight')}"]

    return names


def _numbers(module: DnCnn | FfdNet) -> dict[str, int]:
    """Layer -> its number: conv, relu | conv, norm, relu | ... | conv; without norms every other one is a convolution."""
    if not getattr(module, "norm", False):
        return {f"conv{i}": 2 * i for i in range(module.depth)}
    found = {"conv0": 0, f"conv{module.depth - 1}": 3 * module.depth - 4}
    for i in range(1, module.depth - 1):
        found |= {f"conv{i}": 3 * i - 1, f"norm{i}": 3 * i}
    return found


def _plain(table: dict[str, str]) -> Callable:
    """Of nets whose layers have names: patterns of ours -> theirs."""

    def names(module: Any) -> Callable[[Path], list[str]]:
        def name(path: Path) -> list[str]:
            mine = ".".join(path[1:-1])
            for pattern, theirs in table.items():
                if found := re.fullmatch(pattern, mine):
                    return [f"{found.expand(theirs)}.{suffix(path[-1])}"]
            raise KeyError(mine)

        return name

    return names


def _edsr(module: Edsr) -> Callable[[Path], list[str]]:
    """EDSR-PyTorch's: head, body (its last convolution is numbered like a block), tail."""
    table = {
        "conv_first": "head.0",
        r"body(\d+)_conv1": r"body.\1.body.0",
        r"body(\d+)_conv2": r"body.\1.body.2",
        "conv_body": f"body.{module.blocks}",
        r"up0": "tail.0.0",
        r"up1": "tail.0.2",
        r"up2": "tail.0.4",
        "conv_last": "tail.1",
    }
    return _plain(table)(module)


BODY = {"conv_first": "conv_first", r"body(\d+)_conv(\d)": r"body.\1.conv\2", "conv_last": "conv_last"}
BASIC_EDSR = {**BODY, "conv_body": "conv_after_body", "up0": "upsample.0", "up1": "upsample.2", "up2": "upsample.4"}
BASIC_SRRESNET = {**BODY, "up0": "upconv1", "up1": "upconv2", "conv_hr": "conv_hr"}
OLD_RRDB = {
    r"body(\d+)_rdb(\d)\.conv(\d)": r"RRDB_trunk.\1.RDB\2.conv\3",
    "conv_body": "trunk_conv",
    r"conv_up(\d)": r"upconv\1",
    "conv_hr": "HRconv",
    r"conv_(first|last)": r"conv_\1",
}
BASIC_RRDB = {r"body(\d+)_rdb(\d)\.conv(\d)": r"body.\1.rdb\2.conv\3", r"(conv_\w+)": r"\1"}

# ----------------------------------------------------------------------------------------------------------------------
# Which net tensors belong to


def _count(weights: Tensors, pattern: str) -> int:
    """Different numbers that a pattern of names has."""
    return len({found[1] for name in weights if (found := re.match(pattern, name))})


def _spec(channels: int, told: int = 0) -> Spec:
    seen = Spec(seen=Field((8, 8, channels), "float32", "image"))
    return Spec(seen, level=Field((told,), "float32", "embedding")) if told else seen


def _dncnn(weights: Tensors, stem: str) -> Restorer:
    convs = sorted((int(k[len(stem) :].split(".")[0]), v.shape) for k, v in weights.items() if v.ndim == 4)
    (_, first), (_, last) = convs[0], convs[-1]
    width, told, out = first[0], first[1], last[0]
    if out != told and out % 4 == 0:
        channels = out // 4
        return FfdNet(depth=len(convs), width=width, **_made(channels, told - out))
    norm = any(name.endswith("running_mean") for name in weights)
    return DnCnn(depth=len(convs), width=width, norm=norm, **_made(out, told - out))


def _made(channels: int, told: int = 0) -> dict[str, Any]:
    return dict(shape=(8, 8, channels), conditions=_spec(channels, told))


def _srcnn(weights: Tensors) -> Restorer:
    shapes = [weights[f"conv{i}.weight"].shape for i in (1, 2, 3)]
    kernels, widths = tuple(s[2] for s in shapes), (shapes[0][0], shapes[1][0])
    return Srcnn(scale=1, kernels=kernels, widths=widths, **_made(shapes[2][0]))


def _scale(weights: Tensors, pattern: str) -> int:
    """By the tail's convolutions, which give the squares of their factors times the channels that they see."""
    ups = [v.shape for k, v in weights.items() if v.ndim == 4 and re.fullmatch(pattern, k)]
    return int(np.prod([round((out / width) ** 0.5) for out, width, *_ in ups], dtype=int)) if ups else 1


def _edsr_of(weights: Tensors, body: str, up: str, first: str) -> Restorer:
    width, channels = weights[first].shape[:2]
    blocks = _count(weights, body)
    # the large net alone has a branch that is scaled
    return Edsr(
        scale=_scale(weights, up), blocks=blocks, width=width, res_scale=0.1 if width == 256 else 1.0, **_made(channels)
    )


def _srresnet(weights: Tensors) -> Restorer:
    width, channels = weights["conv_first.weight"].shape[:2]
    blocks, scale = _count(weights, r"body\.(\d+)\."), _scale(weights, r"upconv\d\.weight")
    return SrResNet(scale=scale, blocks=blocks, width=width, **_made(channels))


def _rrdb(weights: Tensors, block: str, dense: str) -> Restorer:
    width, told = weights["conv_first.weight"].shape[:2]
    channels, grow = weights["conv_last.weight"].shape[0], weights[dense].shape[0]
    scale = 4 // round((told / channels) ** 0.5)
    return Rrdb(scale=scale, blocks=_count(weights, block), width=width, grow=grow, **_made(channels))


class Form(NamedTuple):
    """How a file is known, what net it is, and what its tensors are called."""

    mark: str  # the name of a kernel that such a file alone has
    module: Callable[[Tensors], Restorer]
    kinds: tuple[type[Restorer], ...]
    names: Callable[[Any], Callable[[Path], list[str]]]
    side: int = 3  # of that kernel: discriminators have kernels of the same names, of 4 pixels


FORMS: dict[str, Form] = {
    "dncnn": Form("dncnn.0.weight", lambda w: _dncnn(w, "dncnn."), (DnCnn,), _rows(_numbers, "dncnn.")),
    "kair": Form("model.0.weight", lambda w: _dncnn(w, "model."), (DnCnn, FfdNet), _rows(_numbers, "model.")),
    "edsr": Form(
        "head.0.weight",
        lambda w: _edsr_of(w, r"body\.(\d+)\.body", r"tail\.0\.\d\.weight", "head.0.weight"),
        (Edsr,),
        _edsr,
    ),
    "basicsr_edsr": Form(
        "conv_after_body.weight",
        lambda w: _edsr_of(w, r"body\.(\d+)\.", r"upsample\.\d\.weight", "conv_first.weight"),
        (Edsr,),
        _plain(BASIC_EDSR),
    ),
    "esrgan": Form(
        "RRDB_trunk.0.RDB1.conv1.weight",
        lambda w: _rrdb(w, r"RRDB_trunk\.(\d+)\.", "RRDB_trunk.0.RDB1.conv1.weight"),
        (Rrdb,),
        _plain(OLD_RRDB),
    ),
    "basicsr_rrdb": Form(
        "body.0.rdb1.conv1.weight",
        lambda w: _rrdb(w, r"body\.(\d+)\.", "body.0.rdb1.conv1.weight"),
        (Rrdb,),
        _plain(BASIC_RRDB),
    ),
    "basicsr_srresnet": Form("upconv1.weight", _srresnet, (SrResNet,), _plain(BASIC_SRRESNET)),
    "srcnn": Form("conv3.weight", _srcnn, (Srcnn,), _plain({r"(conv\d)": r"\1"}), 5),
}

# ----------------------------------------------------------------------------------------------------------------------


def _means() -> Tensors:
    """EDSR's two layers that take the mean colour off and put it back: they stand in its authors' files, and are no parameters."""
    eye, mean = np.eye(3, dtype=np.float32)[:, :, None, None], 255 * np.array(DIV2K, np.float32)
    return {"sub_mean.weight": eye, "sub_mean.bias": -mean, "add_mean.weight": eye, "add_mean.bias": mean}


def _below(weights: Tensors) -> Tensors:
    """Without what stands in front of all names, and counts of batches."""
    for root in ROOTS:
        if any(name.startswith(root) for name in weights):
            weights = {name.removeprefix(root): v for name, v in weights.items() if name.startswith(root)}
    return {name: v for name, v in weights.items() if not name.endswith("num_batches_tracked")}


def form_of(weights: Tensors) -> str:
    """The key of FORMS that those tensors have; "": none."""
    weights = _below(weights)
    kernels = {name: v.shape[-1] for name, v in weights.items() if v.ndim == 4}
    return next((name for name, form in FORMS.items() if kernels.get(form.mark) == form.side), "")


def from_tensors(weights: Tensors) -> Published:
    """Tensors by their published names -> net and variables. A UserError for tensors that are of no net known here."""
    form, weights = form_of(weights), _below(weights)
    if not form:
        raise UserError(
            f"the tensors ({', '.join(sorted(weights)[:3])}, ...) are of no restorer known here; known: DnCNN, FFDNet, SRCNN, "
            "EDSR, MSRResNet, RRDB"
        )
    if form == "edsr":
        means = _means()
        if any(not np.allclose(weights[k], means[k], atol=0.05) for k in means.keys() & weights.keys()):
            raise UserError("EDSR: sub_mean and add_mean are not those of DIV2K, which the net here has built in")
        weights = {name: v for name, v in weights.items() if name not in means}
    try:
        module = FORMS[form].module(weights)
    except KeyError as error:
        raise UserError(f"{form}: the weights lack tensor {error.args[0]}; is the file whole?") from None
    convert = lambda path, tensors: layout.ours(path[-1], tensors)  # noqa: E731
    return Published(module, fill(form, _shapes(module), weights, FORMS[form].names(module), convert), form)


def _shapes(module: Restorer) -> Any:
    cond = {k: jax.ShapeDtypeStruct((1, *f.shape), jnp.float32) for k, f in module.conditions.items()}
    return jax.eval_shape(module.init, jax.random.key(0), cond)


def to_tensors(module: Restorer, variables: Any, form: str = "") -> Tensors:
    """The way back, in the form of a key of FORMS ("": the first that such a net can have)."""
    fits = [name for name, one in FORMS.items() if isinstance(module, one.kinds)]
    if isinstance(module, DnCnn) and not module.norm:
        fits = ["kair"]
    form = form or next(iter(fits), "")
    if form not in fits:
        raise UserError(
            f"{type(module).__name__} cannot be written as {form or 'anything'!r}; known: {', '.join(fits)}"
        )
    names, flat = FORMS[form].names(module), flatten_dict({k: variables[k] for k in variables})
    found = {names(path)[0]: layout.theirs(path[-1], np.asarray(v))[0] for path, v in flat.items()}
    return {**found, **_means()} if form == "edsr" and module.channels == 3 else found


def load(path: str | File) -> Published:
    """A published file, .pth, .pt or .safetensors."""
    return from_tensors(read_tensors(File(path)))


def save(path: str | File, module: Restorer, variables: Any, form: str = "") -> None:
    """A .safetensors with published names."""
    write_tensors(File(path), to_tensors(module, variables, form))
