"""Models of other projects as runs, and runs as models of other projects: the verb of `python -m jaxgen.pretrained`.

All goes through a `Pipeline` (jaxgen.pretrained.pipelines), whose parts have diffusers' names. What becomes a run
directory is sampled, evaluated, trained on and exported as any run is.
"""

import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxgen.config import files as configs
from jaxgen.config import registry
from jaxgen.core.given import expand
from jaxgen.core.lender import Frozen
from jaxgen.core.spec import Spec, pictures
from jaxgen.core.state import NetState, TrainState, others
from jaxgen.core.text import NAMES
from jaxgen.data.sources.tokenized import CAPTIONS
from jaxgen.data.tokenize import Published
from jaxgen.errors import UserError
from jaxgen.nets.restorer import Restorer
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained import (
    autoencoders,
    codecs,
    lora,
    pipelines,
    restorers,
    schedulers,
    single_files,
    tiny_autoencoders,
)
from jaxgen.pretrained.codecs import PublishedCodec
from jaxgen.pretrained.diffusers import write_folder
from jaxgen.pretrained.layout import placing
from jaxgen.pretrained.pipelines import DTYPES, Part, Pipeline
from jaxgen.pretrained.torch_files import read_tensors
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import TOKENIZERS, Experiment, build_tokenizers
from jaxgen.runs.trained import Trained
from jaxgen.runs.writers import say
from jaxgen.tasks.codec import Codec

AVERAGE = 0.9999  # the decay of the averages that Stable Diffusion's files keep
# class of a net -> steps and guidance of its pipeline in diffusers, where nobody says others
USUAL = {
    "UNet2DConditionModel": (50, 7.5),
    "SD3Transformer2DModel": (28, 7.0),
    "FluxTransformer2DModel": (4, 1.0),  # schnell; dev, which is told how much it is guided, becomes no run
    "PixArtTransformer2DModel": (20, 4.5),
    "DiTTransformer2DModel": (50, 4.0),
    "UNet2DModel": (1000, 1.0),
}
# nets of flows -> what their pipelines multiply times by before the net is told them; their first stages have a shift
MULTIPLIED = {"SD3Transformer2DModel": 1000.0, "FluxTransformer2DModel": 1.0}


# ----------------------------------------------------------------------------------------------------------------------
# In


def read(src: str | Path, variant: str = "", weights: str = "ema", step: int = -1, **options: Any) -> Pipeline:
    """A model of any form. variant: of a folder; weights, step: of a run; options: of single files (see `single_files.read`)."""
    path = Path(expand(src))
    if not path.exists():
        raise UserError(f"{src} does not exist; name a folder of a pipeline, a single file, or a run directory")
    if path.is_file():
        return single_files.read(path, **options)
    if pipelines.is_pipeline(path):
        return pipelines.read(path, variant)
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        return of_run(path, weights, step)
    raise UserError(f"{src} holds no {pipelines.INDEX} and is no run directory; name a folder of a whole pipeline")


def alone(src: str | Path, variant: str = "") -> Part | None:
    """What a folder or a file holds where that is one part and no whole model: `unet/` of a pipeline, a file of Flux's authors."""
    path = Path(expand(src))
    if not path.exists():
        return None
    return single_files.read_alone(path) if path.is_file() else pipelines.read_alone(path, variant)


def _whole_of(src: str | Path, part: Part) -> Pipeline:
    """A part as a pipeline: a net of pixels, whose scheduler lies with it or beside it. A UserError for any other part."""
    name, path = part.config.get("_class_name", ""), Path(expand(src))
    if name in pipelines.FIRST:
        raise UserError(
            f"{src} is a first stage, which other runs take as it is: --config.tasks.codec.run=pretrained "
            f"--config.tasks.codec.run.path={src}"
        )
    if not name:
        raise UserError(
            f"{src} is an encoder of text, which other runs take as it is: --config.method.text_encoder=frozen "
            f"--config.method.text_encoder.run=published_text --config.method.text_encoder.run.path={src}"
        )
    module = pipelines.net_of(part, src)
    if set(module.conditions) - {"label"} or module.shape[-1] not in (1, 3):
        raise UserError(
            f"{src} is the net of a pipeline, and without its first stage and what tells it a text it makes no pictures; name the "
            "folder of the whole, or convert it --to=diffusers"
        )
    there = path if (path / pipelines.SCHEDULER).is_file() else path.parent / "scheduler"
    if not (there / pipelines.SCHEDULER).is_file():
        raise UserError(
            f"{src} is a net, and there is no {pipelines.SCHEDULER} in it, nor in {there}, which says what noise it knows; put one "
            "there"
        )
    return Pipeline(net=part, scheduler=pipelines.read_scheduler(there))


def first_stage(part: Part) -> autoencoders.Autoencoder:
    """The autoencoder of a pipeline, its tensors as stored."""
    kind = tiny_autoencoders if part.config.get("_class_name") == "AutoencoderTiny" else autoencoders
    with placing(lambda _, value: value):
        return kind.from_diffusers(part.config, part.tensors)


def spec_of(pipeline: Pipeline, config: ConfigDict, size: int) -> Spec:
    """Of the data that such a net learns from: pictures of that size, and what is said of them."""
    module = pipelines.kind_of(pipeline.net, "the pipeline").module(pipeline.net)
    channels = pipeline.vae.config.get("in_channels", 3) if pipeline.vae else module.shape[-1]
    names = pipeline.told.get("id2label") or {}
    names = tuple(names[str(i)] for i in range(len(names)))
    spec = pictures((size, size, channels), module.conditions.classes, names)
    return Spec(spec, **{k: one.field() for k, one in zip(CAPTIONS, build_tokenizers(config), strict=False)})


def encoders_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """How a net is told by its encoders of text, as the pipelines of diffusers do it: the keys of each."""
    name, many = pipeline.net.config["_class_name"], len(pipeline.encoders)
    told: list[dict[str, Any]] = [
        dict(name="frozen", masked=False, run=dict(name="published_text")) for _ in range(many)
    ]
    if name == "PixArtTransformer2DModel":
        told[0]["masked"] = True
    elif name == "FluxTransformer2DModel":
        told[0]["states"] = False
    elif name == "UNet2DConditionModel" and many == 1:
        told[0]["pooled"] = False
    elif many:  # two CLIPs before their last block, perhaps T5 behind them
        for one in told[:2]:
            one["run"]["states"] = "penultimate"
        told[0]["pooled"] = name == "SD3Transformer2DModel"
        for one in told[2:]:
            one["join"] = "behind"
    if name in MULTIPLIED:  # whose pipelines give T5 no mask
        told[-1]["run"]["pads"] = True
    if pipeline.told.get("force_zeros_for_empty_prompt"):
        told = [{**one, "null": "zeros"} for one in told]
    return told


def tokenizers_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The keys of every tokenizer. Of T5 the pipelines say the length, not its files."""
    found = [pipelines.tokenizer_of(folder) for folder in pipeline.tokenizers]
    lengths = {"PixArtTransformer2DModel": 300 if "Sigma" in pipeline.kind else 120, "SD3Transformer2DModel": 256}
    lengths["FluxTransformer2DModel"] = 512 if pipeline.net.config.get("guidance_embeds") else 256
    length = lengths.get(pipeline.net.config["_class_name"])
    for one, part in zip(found, pipeline.encoders, strict=False):
        if one["name"] == "bert":
            one["length"] = part.config["max_position_embeddings"]
    return [{**one, "length": length} if one["name"] == "t5" and length else one for one in found]


def refuse_tokenizers(pipeline: Pipeline) -> None:
    """A UserError unless there is a tokenizer for each encoder of text."""
    if len(pipeline.tokenizers) != len(pipeline.encoders):
        raise UserError(
            f"{len(pipeline.tokenizers)} tokenizers for {len(pipeline.encoders)} encoders of text: a single file holds none; name "
            "the folder of CLIP's (with merges.txt) once, or once for each encoder: --tokenizer=DIR"
        )


def config_of(pipeline: Pipeline, kept: Path, size: int = 0, dtype: str = "float32") -> ConfigDict:
    """The config of a run whose net is a pipeline's. kept: where the copies are of what it is lent; size: of its pictures, 0: that
    which the net was made for; dtype: of the products of its nets.

    Raises UserError for a net that is told what no run is.
    """
    module = pipelines.kind_of(pipeline.net, "the pipeline").module(pipeline.net)
    name = pipeline.net.config["_class_name"]
    steps, scale = USUAL[name]
    if odd := [k for k in module.conditions if k not in ("label", "states", "pooled", "size")]:
        raise UserError(f"a net that is told {odd[0]!r} becomes no run; convert it --to=diffusers")
    net = registry.as_spec("module", module, "config.method.net")
    net |= dict(optimizer=dict(name="adam", lr=1e-5), **({"ema": AVERAGE} if pipeline.averages else {}))
    net |= {"dtype": dtype} if "dtype" in net else {}
    c = dict(seed=0, steps=1000, save_every=500, tasks={}, eval={})
    c["method"] = dict(name="diffusion", net=net, **schedulers.method_keys(pipeline.scheduler, steps))
    if c["method"]["process"]["name"] == "linear":
        c["method"]["process"]["scale"] = MULTIPLIED.get(name, 1000.0)
    if name == "FluxTransformer2DModel":  # its pipeline names the times, which are even
        c["method"]["solver"]["grid"]["first"] = 0.0
    if getattr(module, "out_channels", 0) == 2 * module.shape[-1]:
        c["method"]["objective"] = "hybrid"  # the net says a variance too
    factor = 1
    if pipeline.vae:
        found = first_stage(pipeline.vae)
        factor, kind = found.factor, "float32" if dtype == "float16" else dtype
        c["tasks"]["codec"] = dict(run=dict(name="pretrained", path=str(kept / "codec"), dtype=kind), **found.latents)
    if "size" in module.conditions:
        c["tasks"]["size"] = dict(form={6: "crop", 3: "ratio"}[module.conditions["size"].shape[0]])
    c["data"] = dict(
        name="folder", path="", size=size or factor * module.shape[0], batch=8, labels=bool(module.conditions.classes)
    )
    if encoders := encoders_of(pipeline):
        tokenizers = tokenizers_of(pipeline)
        for i, (encoder, tokenizer) in enumerate(zip(encoders, tokenizers, strict=True)):
            encoder["run"] |= dict(path=str(kept / NAMES[i]), dtype=dtype)
            tokenizer["path"] = str(kept / TOKENIZERS[i])
        several = len(encoders) > 1
        c["data"]["tokenizer"] = tuple(tokenizers) if several else tokenizers[0]
        c["method"]["text_encoder"] = tuple(encoders) if several else encoders[0]
    if module.conditions and scale != 1.0:
        c["method"] |= dict(condition_dropout=0.1, guide=dict(name="cfg", scale=scale))
    return configs.normalise(ConfigDict(c))


def to_run(pipeline: Pipeline, workdir: str | Path, size: int = 0, dtype: str = "float32") -> Path:
    """A run directory at step 0, with copies of all that the net is lent; dtype: of the products of its nets.

    Raises UserError for a directory that is there, and for a part that has no counterpart here.
    """
    run = RunDir(workdir)
    if run.path.exists():
        raise UserError(f"{run.path} is there already; name another directory")
    refuse_tokenizers(pipeline)
    kept = run.path.resolve() / "frozen"
    config = config_of(pipeline, kept, size, dtype)
    with _whole(run.path):
        if pipeline.vae:
            write_folder(kept / "codec", pipeline.vae.config, pipeline.vae.tensors)
        for name, part in zip(NAMES, pipeline.encoders, strict=False):
            pipelines.write_encoder(kept / name, part)
        for name, folder in zip(TOKENIZERS, pipeline.tokenizers, strict=False):
            run.keep_files(name, [file for file in sorted(folder.iterdir()) if file.is_file()])
        if pipeline.papers:
            run.keep_files("papers", pipeline.papers)
        spec = spec_of(pipeline, config, config.data.size)
        _begin(run, config, spec, _state(pipeline, Experiment.open(config, spec, kept)))
    return run.path


def _begin(run: RunDir, config: ConfigDict, spec: Spec, state: TrainState) -> None:
    """Write a run at step 0."""
    run.claim(config)
    run.record({"spec": spec.to_json()}, {"command": " ".join(["python -m jaxgen.pretrained", *sys.argv[1:]])})
    keeper = Checkpoints(run.path)
    keeper.save(0, state, {"config": json.loads(configs.to_json(config)), "spec": spec.to_json()})
    keeper.close()


def restorer_to_run(found: restorers.Published, workdir: str | Path, size: int = 0, dtype: str = "float32") -> Path:
    """The run directory of a published net that enlarges (task `shrink`) or mends (`degrade`); size: of squares to train on."""
    run, module = RunDir(workdir), found.module
    size, channels = size or 24 * max(module.scale, 4), module.channels
    net = registry.as_spec("module", module, "config.method.net") | dict(dtype=dtype)
    told = "level" in module.conditions
    tasks = dict(shrink=dict(factor=module.scale, how="matlab_bicubic_uint8"))
    config = configs.normalise(ConfigDict(dict(
        seed=0, steps=1000, save_every=500, eval={},
        data=dict(name="crops", path="", size=size, channels=channels, batch=8),
        tasks=tasks if module.scale > 1 else dict(degrade=dict(told=told)),
        method=dict(name="regress", net={**net, "optimizer": dict(name="adam", lr=1e-5)}),
    )))  # fmt: skip
    spec = pictures((size, size, channels))
    exp = Experiment.open(config, spec)
    _refuse_odd(exp, found.variables, "keep its file: no task tells a run so much")
    with _whole(run.path):
        state = NetState(found.variables["params"], (), others(found.variables), {}, "")
        _begin(run, config, spec, TrainState(step=jnp.zeros((), jnp.int32), nets={"net": state}))
    return run.path


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What is written there is taken away again where it does not come to its end: nobody takes half of it for one."""
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _state(pipeline: Pipeline, exp: Experiment) -> TrainState:
    """The state of a run that begins with a pipeline's net; an optimizer comes where training begins."""
    kind, net = pipelines.kind_of(pipeline.net, "the pipeline"), exp.method.net
    variables = kind.read(net.module, pipeline.net.tensors)
    _refuse_odd(exp, variables, "convert it to diffusers")
    ema = {rule.label: kind.read(net.module, pipeline.averages)["params"] for rule in net.ema}
    state = NetState(variables["params"], (), others(variables), ema, next(iter(ema), ""))
    return TrainState(step=jnp.zeros((), jnp.int32), nets={"net": state})


def _refuse_odd(exp: Experiment, variables: Any, cure: str) -> None:
    """A UserError unless the run's net has variables of those shapes."""
    wanted, found = exp.abstract.nets["net"], {"params": variables["params"], **others(variables)}
    shapes = [
        {"/".join(k): v.shape for k, v in flatten_dict(t).items()}
        for t in ({"params": wanted.params, **wanted.vars}, found)
    ]
    if odd := sorted(k for k in {**shapes[0], **shapes[1]} if shapes[0].get(k) != shapes[1].get(k)):
        raise UserError(
            f"the net is {shapes[1].get(odd[0])} in {odd[0]} and its config makes {shapes[0].get(odd[0])}; {cure}"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Out


def of_run(workdir: str | Path, weights: str = "ema", step: int = -1) -> Pipeline:
    """A run as a pipeline: its net with those weights, and what it is lent. A UserError where diffusers has no such thing."""
    trained = Trained.open(workdir, step)
    exp, kept = trained.exp, trained.run.path / "frozen"
    if not hasattr(exp.method, "predict"):
        raise UserError(
            f"{workdir} is a run of method {exp.config.method.name}; only diffusion models become pipelines"
        )
    if exp.method.net.adapter:
        raise UserError(f"{workdir} holds a LoRA; convert it --to=peft or --to=kohya, or name the run of its base")
    if getattr(exp.method.net.module, "text", None):
        raise UserError(
            f"{workdir}: its net has an encoder of text of its own, which diffusers has not; train one on a published encoder "
            "(method.text_encoder)"
        )
    (choice,) = trained.choose([weights])
    encoders = exp.method.text_encoder or ()
    encoders = encoders if isinstance(encoders, tuple) else (encoders,)
    net = pipelines.part_of(exp.method.net.module, choice.weights().nets["net"])
    name, process = net.config["_class_name"], exp.config.method.process
    if process.name == "linear" and process.scale != (times := MULTIPLIED.get(name, 1000.0)):
        raise UserError(
            f"{workdir}: its net is told times up to {process.scale:g}, and a {name} in diffusers up to {times:g}; train one with "
            f"method.process.scale={times:g}"
        )
    folders = [Path(one.file).parent for one in exp.tokenizers if isinstance(one, Published)]
    sigma = name == "PixArtTransformer2DModel" and exp.tokenizers[0].length > 120  # of the two, that with long texts
    codec = next((stage.task for stage in exp.stages if isinstance(stage.task, Codec)), None)
    names = exp.spec[exp.spec.label].names if exp.spec.label else ()
    return Pipeline(
        net=net,
        kind="PixArtSigmaPipeline" if sigma else "",
        scheduler=schedulers.scheduler_config(exp.config.method.to_dict()),
        vae=_autoencoder(codec, trained.state.frozen["codec"], name in MULTIPLIED) if codec else None,
        encoders=tuple(pipelines.read_encoder(one.run.path) for one in encoders),
        tokenizers=tuple(folders * len(encoders) if len(folders) == 1 else folders),
        papers=tuple(sorted((kept / "papers").glob("*"))),
        told=({"id2label": {str(i): name for i, name in enumerate(names)}} if names else {})
        | ({"force_zeros_for_empty_prompt": True} if len(encoders) == 2 and encoders[1].null == "zeros" else {}),
    )


def _autoencoder(codec: Codec, lent: Frozen, shifts: bool) -> Part:
    """The first stage of a run, with the statistics by which it brings latents to mean 0 and deviation 1.

    shifts: whether the pipeline looks at shift_factor, as those of flows do; others pass over it.
    """
    if isinstance(codec.run, PublishedCodec):
        found = codecs.load(codec.run.path, codec.run.groups)
        module, variables, config = found.module, found.variables, found.config
    else:
        module, variables, config = lent.model.ae.module, lent.weights.nets["ae"], {}
    if isinstance(module, TinyAutoencoder):
        found = tiny_autoencoders.to_diffusers(module, variables, config)
    else:
        found = autoencoders.config_of(module), autoencoders.to_diffusers(module, variables)
    told, mean = {"scaling_factor": 1.0} | ({"shift_factor": 0.0} if shifts else {}), codec.mean or (0.0,)
    even = all(max(values) - min(values) < 1e-12 for values in (codec.mean, codec.std) if values)
    if codec.std and even and (shifts or not any(mean)):
        told = {"scaling_factor": 1 / codec.std[0]} | ({"shift_factor": mean[0]} if shifts else {})
    elif codec.std:
        # pipelines know one number for all channels: the others go into the layers on both sides of the latents
        variables = autoencoders.standardised(module, variables, codec.mean, codec.std)
        found = found[0], autoencoders.to_diffusers(module, variables)
    return Part({**found[0], **{k: v for k, v in config.items() if k in found[0]}, **told}, found[1])


def lora_of(src: str | Path, base: str | Path = "", step: int = -1) -> lora.Lora:
    """The pairs of a run with an adapter, or of a LoRA's file for the UNet of `base`."""
    path = Path(expand(src))
    if path.is_file():
        if not base:
            raise UserError(f"{src} is a LoRA, whose names depend on its net; name that of its base: --base=SRC")
        net = alone(base) or read(base).net
        return lora.read(path, pipelines.kind_of(net, base).module(net))
    trained = Trained.open(path, step)
    net = getattr(trained.exp.method, "net", None)
    if not getattr(net, "adapter", None):
        raise UserError(
            f"{src} has trained no LoRA; convert it --to=diffusers, or train with --config.method.net.adapter=lora"
        )
    (choice,) = trained.choose(["ema"])
    return lora.pairs_of(net.module, net.adapter, choice.weights().nets["net"]["params"])


def is_lora(path: Path) -> bool:
    """Whether a file holds pairs."""
    return path.is_file() and any(".lora_" in name for name in read_tensors(path, "state_dict"))


def restorer_of(path: Path) -> restorers.Published | None:
    """The net of a file that enlarges or mends pictures; None for any other."""
    return restorers.load(path) if path.is_file() and restorers.form_of(read_tensors(path)) else None


def convert(
    src: str | Path,
    dst: str | Path,
    to: str,
    dtype: str = "",
    variant: str = "",
    weights: str = "ema",
    step: int = -1,
    size: int = 0,
    base: str | Path = "",
    **options: Any,
) -> Path:
    """Write a model in another form (one of FORMS) -> its path.

    dtype: of floats in files, and of the products of a run's nets (one of DTYPES; "": as stored, float32). weights, step: of a
    run. size: of a run's pictures. base: of a LoRA's file. options: of single files, see `single_files.read`.
    """
    dst = Path(expand(dst))
    if dst.exists():
        raise UserError(f"{dst} is there already; name another, or take it away")
    if to in ("kohya", "peft"):
        found = lora_of(src, base, step)
        say(f"{src}: {len(found)} pairs of rank {', '.join(map(str, sorted({pair.rank for pair in found.values()})))}")
        (lora.write_kohya if to == "kohya" else lora.write_peft)(dst, found)
        return dst
    if to == "published":
        trained = Trained.open(src, step)
        module = getattr(getattr(trained.exp.method, "net", None), "module", None)
        if not isinstance(module, Restorer):
            raise UserError(
                f"{src} is a run of method {trained.exp.config.method.name}, and nets that enlarge or mend pictures alone have "
                "published names; name a run of method regress"
            )
        (choice,) = trained.choose([weights])
        restorers.save(dst, module, choice.weights().nets["net"])
        return dst
    if (published := restorer_of(Path(expand(src)))) and to == "run":
        return restorer_to_run(published, dst, size, DTYPES.get(dtype, "float32"))
    part = alone(src, variant)
    pipeline = None if part else read(src, variant, weights, step, **options)
    for line in described_part(part, src) if part else described(pipeline):
        say(line)
    if part and to != "run":
        with _whole(dst):
            (pipelines.write_alone if to == "diffusers" else single_files.write_alone)(dst, part, dtype)
        return dst
    pipeline = pipeline or _whole_of(src, part)
    if to == "run":
        return to_run(pipeline, dst, size, DTYPES.get(dtype, "float32"))
    if to == "diffusers":
        refuse_tokenizers(pipeline)
    with _whole(dst):
        (pipelines.write if to == "diffusers" else single_files.write)(dst, pipeline, dtype)
    return dst


# ----------------------------------------------------------------------------------------------------------------------
# What it is


def described(pipeline: Pipeline) -> list[str]:
    """A line for every part."""
    parts = {"net": pipeline.net} | ({"first stage": pipeline.vae} if pipeline.vae else {})
    parts |= {f"text encoder {i + 1}": part for i, part in enumerate(pipeline.encoders)}
    lines = [f"{what:<16}{_told(part)}" for what, part in parts.items()]
    if pipeline.averages:
        lines.append(f"{'averages':<16}of the net, beside its weights in training")
    lines.append(f"{'scheduler':<16}{pipeline.scheduler['_class_name']} ({_scheduler(pipeline)})")
    lines += [f"{'tokenizer':<16}{folder}" for folder in pipeline.tokenizers]
    return [*lines, *(f"{'left aside':<16}{what}" for what in pipeline.left)]


def described_part(part: Part, src: str | Path) -> list[str]:
    """A line for a part that is there alone, and one for what it is here."""
    name = part.config.get("_class_name", "")
    if name in pipelines.FIRST:
        return [f"{'first stage':<16}{_told(part)}", f"{'here':<16}a codec: tasks.codec.run=pretrained, path={src}"]
    module = pipelines.net_of(part, src) if name else pipelines.encoder_of(part)
    here = registry.as_spec("module", module, "")["name"]
    what = f", told {module.conditions or 'nothing'}" if name else f", states of {module.width} numbers"
    return [f"{'net' if name else 'text encoder':<16}{_told(part)}", f"{'here':<16}{here}{what}"]


def _told(part: Part) -> str:
    """`UNet2DConditionModel, 686 tensors, 859,520,964 parameters, float16 1.7 GB`."""
    name = (
        part.config.get("_class_name") or (part.config.get("architectures") or [part.config.get("model_type", "")])[0]
    )
    sizes: dict[str, int] = {}
    for value in part.tensors.values():
        sizes[value.dtype.name] = sizes.get(value.dtype.name, 0) + value.nbytes
    numbers = sum(math.prod(value.shape) for value in part.tensors.values())
    stored = ", ".join(f"{kind} {size / 1e9:.3g} GB" for kind, size in sizes.items())
    return f"{name}, {len(part.tensors):,} tensors, {numbers:,} parameters, {stored}"


def _scheduler(pipeline: Pipeline) -> str:
    """What its scheduler is here, or why nothing."""
    try:
        keys = schedulers.method_keys(pipeline.scheduler, USUAL[pipeline.net.config["_class_name"]][0])
    except UserError as error:
        return str(error)
    return "here process {}, predict {}, solver {}".format(*(keys[k]["name"] for k in ("process", "predict", "solver")))


def inspect(src: str | Path, variant: str = "", base: str | Path = "", **options: Any) -> list[str]:
    """What a file or folder holds, in lines."""
    path = Path(expand(src))
    if is_lora(path):
        tensors = read_tensors(path, "state_dict")
        ranks = sorted({len(v) for k, v in tensors.items() if "lora_down" in k or "lora_A" in k})
        kind = "kohya" if any("lora_down" in name for name in tensors) else "PEFT"
        return [
            f"{src}: a LoRA as {kind} writes it, {len(tensors):,} tensors, rank {', '.join(map(str, ranks))}; needs --base=SRC"
        ]
    if found := restorer_of(path):
        numbers = sum(v.size for v in jax.tree.leaves(found.variables["params"]))
        return [
            f"{src}: {type(found.module).__name__} ({found.form}), {numbers:,} parameters, enlarges {found.module.scale} times"
        ]
    if part := alone(src, variant):
        return [f"{src}: a part of a pipeline", *described_part(part, src)]
    kind = "a single file" if path.is_file() else "a pipeline" if pipelines.is_pipeline(path) else "a run directory"
    return [f"{src}: {kind}", *described(read(src, variant, **options))]
