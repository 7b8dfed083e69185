"""Names -> objects: the only place where a name becomes a class.

Every config dict with a `name` is one frozen dataclass (or linen module) whose fields are the keys. A key listed in
KEYS holds a member of that table; everything else is a plain value. What the data decides (image shape, number of
labels, batch, length of the run) is handed to every class that has a field of that name.
"""

import dataclasses
import difflib
import importlib
import types
import typing
from collections.abc import Iterable
from typing import Any

from jaxgen.errors import UserError

# table -> name -> "module:Class"
TABLES: dict[str, dict[str, str]] = {
    "source": {
        "tfds": "jaxgen.data.sources:Tfds",
        "folder": "jaxgen.data.sources:Folder",
        "digits": "jaxgen.data.sources:Digits",
        "shapes": "jaxgen.data.sources:Shapes",
        "arrays": "jaxgen.data.sources:Arrays",
    },
    "transform": {
        "flip": "jaxgen.data.transforms:Flip",
        "crop": "jaxgen.data.transforms:Crop",
    },
    "augment": {
        "flip": "jaxgen.tasks.augment:Flip",
        "crop": "jaxgen.tasks.augment:Crop",
        "geometric": "jaxgen.tasks.augment:Geometric",
    },
    "method": {
        "diffusion": "jaxgen.methods.diffusion:Diffusion",
        "consistency": "jaxgen.methods.consistency:Consistency",
        "consistency_distillation": "jaxgen.methods.consistency_distillation:ConsistencyDistillation",
        "meanflow": "jaxgen.methods.meanflow:MeanFlow",
        "vae": "jaxgen.methods.vae:Vae",
        "gan": "jaxgen.methods.gan:Gan",
        "vqvae": "jaxgen.methods.vqvae:VqVae",
        "classifier": "jaxgen.methods.classifier:Classifier",
        "noisy_classifier": "jaxgen.methods.classifier:NoisyClassifier",
        "progressive_distillation": "jaxgen.methods.progressive_distillation:ProgressiveDistillation",
        "reflow": "jaxgen.methods.reflow:Reflow",
    },
    "module": {
        "unet": "jaxgen.nets.unet:UNet",
        "dit": "jaxgen.nets.dit:DiT",
        "ddpmpp": "jaxgen.nets.edm_unet:DdpmPP",
        "ncsnpp": "jaxgen.nets.edm_unet:NcsnPP",
        "adm": "jaxgen.nets.edm_unet:Adm",
        "edm2_unet": "jaxgen.nets.edm2_unet:Edm2UNet",
        "vae_net": "jaxgen.nets.autoencoder:VaeNet",
        "vqvae_net": "jaxgen.nets.autoencoder:VqVaeNet",
        "mlp_encoder": "jaxgen.nets.autoencoder:MlpEncoder",
        "mlp_decoder": "jaxgen.nets.autoencoder:MlpDecoder",
        "conv_encoder": "jaxgen.nets.autoencoder:ConvEncoder",
        "conv_decoder": "jaxgen.nets.autoencoder:ConvDecoder",
        "ema_quantizer": "jaxgen.nets.quantize:EmaQuantizer",
        "gradient_quantizer": "jaxgen.nets.quantize:GradientQuantizer",
        "mlp_generator": "jaxgen.nets.gan:MlpGenerator",
        "mlp_discriminator": "jaxgen.nets.gan:MlpDiscriminator",
        "dcgan_generator": "jaxgen.nets.gan:DcganGenerator",
        "dcgan_discriminator": "jaxgen.nets.gan:DcganDiscriminator",
        "resnet_generator": "jaxgen.nets.gan:ResnetGenerator",
        "resnet_discriminator": "jaxgen.nets.gan:ResnetDiscriminator",
        "residual_classifier": "jaxgen.nets.classifier:ResidualClassifier",
        "timed_classifier": "jaxgen.nets.classifier:TimedClassifier",
    },
    "optimizer": {
        "adam": "jaxgen.core.optim:Adam",
        "radam": "jaxgen.core.optim:RAdam",
        "rmsprop": "jaxgen.core.optim:RmsProp",
        "sgd": "jaxgen.core.optim:Sgd",
    },
    "ema": {
        "none": "jaxgen.core.net:NoEma",
        "decay": "jaxgen.core.net:Decay",
        "half_life": "jaxgen.core.net:HalfLife",
        "power": "jaxgen.core.net:Power",
    },
    "process": {
        "vp": "jaxgen.diffusion.process:VP",
        "vp_sde": "jaxgen.diffusion.paths:VpSde",
        "sub_vp": "jaxgen.diffusion.paths:SubVp",
        "ve": "jaxgen.diffusion.paths:VE",
        "edm": "jaxgen.diffusion.paths:Sigma",
        "linear": "jaxgen.diffusion.paths:Linear",
        "trigonometric": "jaxgen.diffusion.paths:Trigonometric",
    },
    "predict": {
        "eps": "jaxgen.diffusion.predict:Eps",
        "x0": "jaxgen.diffusion.predict:X0",
        "v": "jaxgen.diffusion.predict:V",
        "flow": "jaxgen.diffusion.predict:Flow",
        "velocity": "jaxgen.diffusion.predict:Velocity",
        "score": "jaxgen.diffusion.predict:Score",
        "edm": "jaxgen.diffusion.predict:Edm",
    },
    "weight": {
        "simple": "jaxgen.diffusion.weight:Simple",
        "snr": "jaxgen.diffusion.weight:Snr",
        "truncated_snr": "jaxgen.diffusion.weight:TruncatedSnr",
        "min_snr": "jaxgen.diffusion.weight:MinSnr",
        "edm": "jaxgen.diffusion.weight:EdmLambda",
        "sigmoid": "jaxgen.diffusion.weight:Sigmoid",
        "p2": "jaxgen.diffusion.weight:P2",
        "inverse_variance": "jaxgen.diffusion.weight:InverseVariance",
        "cosmap": "jaxgen.diffusion.weight:CosMap",
    },
    "times": {
        "uniform": "jaxgen.diffusion.times:Uniform",
        "stratified": "jaxgen.diffusion.times:Stratified",
        "log_normal": "jaxgen.diffusion.times:LogNormal",
        "logit_normal": "jaxgen.diffusion.times:LogitNormal",
        "mode": "jaxgen.diffusion.times:Mode",
        "importance": "jaxgen.diffusion.times:Importance",
    },
    "solver": {
        "ancestral": "jaxgen.diffusion.solvers.chain:Ancestral",
        "ddim": "jaxgen.diffusion.solvers.chain:Ddim",
        "euler": "jaxgen.diffusion.solvers.ode:Euler",
        "euler_ancestral": "jaxgen.diffusion.solvers.ode:EulerAncestral",
        "euler_maruyama": "jaxgen.diffusion.solvers.ode:EulerMaruyama",
        "heun": "jaxgen.diffusion.solvers.ode:Heun",
        "churn": "jaxgen.diffusion.solvers.ode:Churn",
        "dpm2": "jaxgen.diffusion.solvers.ode:Dpm2",
        "lms": "jaxgen.diffusion.solvers.ode:Lms",
        "deis": "jaxgen.diffusion.solvers.ode:Deis",
        "pndm": "jaxgen.diffusion.solvers.ode:Pndm",
        "dpm": "jaxgen.diffusion.solvers.exponential:Dpm",
        "dpm_plus": "jaxgen.diffusion.solvers.exponential:DpmPlus",
        "dpm_single": "jaxgen.diffusion.solvers.exponential:DpmSingle",
        "dpm_2s_ancestral": "jaxgen.diffusion.solvers.exponential:Dpm2sAncestral",
        "dpm_sde": "jaxgen.diffusion.solvers.exponential:DpmSde",
        "unipc": "jaxgen.diffusion.solvers.exponential:UniPC",
        "lcm": "jaxgen.diffusion.solvers.fewstep:Lcm",
        "tcd": "jaxgen.diffusion.solvers.fewstep:Tcd",
        "predictor_corrector": "jaxgen.diffusion.solvers.corrector:PredictorCorrector",
    },
    "grid": {
        "even": "jaxgen.diffusion.grid:Even",
        "leading": "jaxgen.diffusion.grid:Leading",
        "trailing": "jaxgen.diffusion.grid:Trailing",
        "linspace": "jaxgen.diffusion.grid:Linspace",
        "karras": "jaxgen.diffusion.grid:Karras",
        "exponential": "jaxgen.diffusion.grid:Exponential",
        "flow": "jaxgen.diffusion.grid:Flow",
        "dynamic_flow": "jaxgen.diffusion.grid:DynamicFlow",
        "given": "jaxgen.diffusion.grid:Given",
    },
    "guide": {
        "none": "jaxgen.diffusion.guide:NoGuide",
        "cfg": "jaxgen.diffusion.guide:ClassifierFree",
        "interval": "jaxgen.diffusion.guide:Interval",
        "rescaled": "jaxgen.diffusion.guide:Rescaled",
        "negative": "jaxgen.diffusion.guide:Negative",
        "auto": "jaxgen.diffusion.guide:Autoguidance",
        "classifier": "jaxgen.diffusion.guide:ByClassifier",
    },
    "run": {"run": "jaxgen.runs.frozen:Run"},
    "curriculum": {
        "doubling": "jaxgen.methods.consistency:Doubling",
        "square_root": "jaxgen.methods.consistency:SquareRoot",
        "fixed": "jaxgen.methods.consistency:Fixed",
    },
    "nll": {
        "flow": "jaxgen.diffusion.flow_likelihood:FlowLikelihood",
        "bound": "jaxgen.diffusion.bound:ChainBound",
    },
    "likelihood": {
        "bernoulli": "jaxgen.losses.pixel_likelihood:Bernoulli",
        "gaussian": "jaxgen.losses.pixel_likelihood:Gaussian",
        "learned_gaussian": "jaxgen.losses.pixel_likelihood:LearnedGaussian",
        "logistic": "jaxgen.losses.pixel_likelihood:DiscretisedLogistic",
    },
    "gan_loss": {
        "saturating": "jaxgen.losses.gan:Saturating",
        "nonsaturating": "jaxgen.losses.gan:NonSaturating",
        "least_squares": "jaxgen.losses.gan:LeastSquares",
        "hinge": "jaxgen.losses.gan:Hinge",
        "wasserstein": "jaxgen.losses.gan:Wasserstein",
    },
    "penalty": {
        "none": "jaxgen.losses.regularize:NoPenalty",
        "gradient": "jaxgen.losses.regularize:GradientPenalty",
        "r1": "jaxgen.losses.regularize:R1",
    },
    "evaluator": {
        "loss": "jaxgen.evaluation.per_image:Loss",
        "grid": "jaxgen.evaluation.per_image:Grid",
        "reconstruct": "jaxgen.evaluation.per_image:Reconstruction",
        "likelihood": "jaxgen.evaluation.per_image:Likelihood",
        "codes": "jaxgen.evaluation.per_image:Codes",
        "quality": "jaxgen.evaluation.image_sets:SampleQuality",
        "neighbours": "jaxgen.evaluation.image_sets:Neighbours",
        "diversity": "jaxgen.evaluation.image_sets:Diversity",
        "restoration": "jaxgen.evaluation.image_sets:Restoration",
    },
}

# config key -> table; a "net" is a module with its optimizer and average
KEYS: dict[str, str] = {
    "net": "net", "gen": "net", "disc": "net",
    "encoder": "module", "decoder": "module", "quantizer": "module",
    "optimizer": "optimizer", "ema": "ema",
    "process": "process", "predict": "predict", "weight": "weight", "times": "times", "solver": "solver", "pairs": "solver",
    "guide": "guide", "grid": "grid", "nll": "nll", "likelihood": "likelihood", "loss": "gan_loss", "penalty": "penalty",
    "teacher": "run", "weak": "run", "judge": "run", "curriculum": "curriculum",
}  # fmt: skip

# tables whose `steps` is the length of the run; the steps of a solver, a process, ... are its own
LENGTHS = ("optimizer", "curriculum")

# tables of which a key may hold several members, as a tuple
MANY = ("ema",)

# keys of a net that are not fields of its module, with their defaults
NET_PARTS: dict[str, Any] = {"optimizer": {"name": "adam"}, "ema": {"name": "none"}}


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or the list of what there is: the end of every message about a wrong name."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def lookup(table: str, name: str, where: str) -> type:
    """The class called `name`; `where` is the config path for the message."""
    table = "module" if table == "net" else table
    if not isinstance(name, str) or name not in TABLES[table]:
        raise UserError(f"{where}.name={name!r} is unknown{nearest(str(name), TABLES[table])}")
    module, _, attribute = TABLES[table][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def fields(cls: type) -> dict[str, dataclasses.Field]:
    """What a config may set: the dataclass fields but linen's own (`parent`, `name`)."""
    own = {f.name: f for f in dataclasses.fields(cls) if f.init}
    return {k: f for k, f in own.items() if k not in ("parent", "name")}


def left(table: str, cls: type, given: Iterable[str]) -> set[str]:
    """The fields that the data and the run decide where a spec leaves them open."""
    return {k for k in fields(cls) if k in given and (k != "steps" or table in LENGTHS)}


def default(field: dataclasses.Field) -> Any:
    """A field's default, or dataclasses.MISSING."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def as_spec(table: str, value: Any, where: str) -> dict[str, Any]:
    """The long form of a member: "eps" -> {"name": "eps"}, ema=0.999 -> decay of that rate, a run's directory, an object."""
    table = "module" if table == "net" else table
    if table == "ema" and isinstance(value, int | float) and not isinstance(value, bool):
        return {"name": "decay", "rate": float(value)} if value else {"name": "none"}
    if isinstance(value, str):
        return {"name": "run", "path": value} if table == "run" else {"name": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        path = f"{type(value).__module__}:{type(value).__name__}"
        name = next(n for n, target in TABLES[table].items() if target == path)
        return {"name": name, **{k: getattr(value, k) for k in fields(type(value))}}
    if not hasattr(value, "items") or "name" not in value:
        raise UserError(f"{where}={value!r} must be a name or a dict with a name{nearest('', TABLES[table])}")
    return dict(value.items())


def kinds(annotation: Any) -> tuple[type, ...]:
    """The plain types that an annotation admits: `int | str` -> (int, str); () when anything goes."""
    if annotation in (bool, int, float, str, tuple, dict):
        return (annotation,)
    if typing.get_origin(annotation) is tuple:
        return (tuple,)
    if isinstance(annotation, types.UnionType):
        return tuple(k for member in typing.get_args(annotation) for k in kinds(member))
    return ()


def check(value: Any, field: dataclasses.Field, where: str) -> Any:
    """`value` as the field's type wants it (lists as tuples, ints as floats); a mismatch is a UserError."""
    if isinstance(value, list):
        value = tuple(value)
    wanted = kinds(field.type)
    if not wanted or type(value) in wanted:
        return value
    if float in wanted and type(value) is int:
        return float(value)
    names = " or ".join(k.__name__ for k in wanted)
    raise UserError(f"{where} must be {names} (such as {default(field)!r}), got {value!r} ({type(value).__name__})")


def keys(table: str, name: str, where: str) -> tuple[str, ...]:
    """What a config dict of this name may hold."""
    return (*fields(lookup(table, name, where)), *(NET_PARTS if table == "net" else ()))


def members(table: str, name: str, where: str) -> dict[str, Any]:
    """The members of other tables that this name holds by default."""
    known = {k: default(f) for k, f in fields(lookup(table, name, where)).items() if k in KEYS}
    return {k: as_spec(KEYS[k], v, f"{where}.{k}") for k, v in known.items() if v is not dataclasses.MISSING}


def complete(table: str, spec: Any, given: Iterable[str] = (), where: str = "config") -> Any:
    """A spec with every default spelled out (but what the data decides), checked key by key.

    A key of MANY may hold several: a tuple of specs. One alone is that one, none is "none".
    """
    if table in MANY and isinstance(spec, tuple | list):
        several = tuple(complete(table, one, given, f"{where}[{i}]") for i, one in enumerate(spec or ("none",)))
        return several if len(several) > 1 else several[0]
    spec = as_spec(table, spec, where)
    parts = NET_PARTS if table == "net" else {}
    cls = lookup(table, spec["name"], where)
    known = fields(cls)
    out: dict[str, Any] = {"name": spec["name"]}
    for key in spec:
        if key != "name" and key not in known and key not in parts:
            raise UserError(f"{where}.{key} is not a field of {spec['name']}{nearest(key, [*known, *parts])}")
    for key, field in known.items():
        like = default(field)
        value = spec.get(key, like)
        if key in KEYS and value is not dataclasses.MISSING:
            out[key] = complete(KEYS[key], value, given, f"{where}.{key}")
        elif key in spec:
            out[key] = check(value, field, f"{where}.{key}")
        elif key in left(table, cls, given):
            continue
        elif like is dataclasses.MISSING:
            raise UserError(f"{where}.{key} is missing: {spec['name']} needs it")
        else:
            out[key] = value
    for key, like in parts.items():
        out[key] = complete(KEYS[key], spec.get(key, like), given, f"{where}.{key}")
    return out


def build(table: str, spec: Any, given: dict[str, Any] | None = None, where: str = "config") -> Any:
    """Spec -> object. `given` (shape, classes, batch, steps) fills the fields that the spec leaves open."""
    given = given or {}
    spec = complete(table, spec, given, where)
    if isinstance(spec, tuple):
        return tuple(build(table, one, given, f"{where}[{i}]") for i, one in enumerate(spec))
    cls = lookup(table, spec.pop("name"), where)
    parts = {key: build(KEYS[key], spec.pop(key), given, f"{where}.{key}") for key in NET_PARTS if table == "net"}
    values = {k: build(KEYS[k], v, given, f"{where}.{k}") if k in KEYS else v for k, v in spec.items()}
    values |= {k: given[k] for k in left(table, cls, given) if k not in spec}
    built = cls(**values)
    if table == "optimizer":
        return built.build()
    if table == "net":
        from jaxgen.core.net import Net, NoEma

        rules = parts["ema"] if isinstance(parts["ema"], tuple) else (parts["ema"],)
        return Net(built, tx=parts["optimizer"], ema=tuple(rule for rule in rules if not isinstance(rule, NoEma)))
    return built
