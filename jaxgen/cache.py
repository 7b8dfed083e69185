"""The latents of a config's pictures, and the states of its captions, encoded once: `--mode=cache`.

    python -m jaxgen.main --config=C --mode=cache --workdir=DIR
    python -m jaxgen.main --config=C --workdir=runs/x --config.data.name=latents --config.data.path=DIR

What is kept of a picture are the moments of its posterior, or its codes, never a draw: every step draws anew. Encoders do not
commute with mirrors, so that with `data.augment=("flip",)` the mirrored picture is encoded too. DIR/train and DIR/eval hold an
array for every field that a run reads, and meta.json: what was encoded and by what, mean and standard deviation of the latents.

Of a config with frozen encoders of text DIR/text holds what the encoder says of every caption that differs from others, once, and
of the empty text (DIR/text2 of the second): `--config.method.text_encoder.cache=DIR`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxgen.config.files import FEED
from jaxgen.core import parallel
from jaxgen.core.conditions import heard
from jaxgen.core.lender import Frozen, weights_hash
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Array
from jaxgen.core.text import META as TEXT_META
from jaxgen.core.text import each
from jaxgen.data.pipeline import eval_batches
from jaxgen.data.sources import NothingHeldOut, Source
from jaxgen.data.sources.latents import META
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.runs.experiment import Experiment, open_source, without_states
from jaxgen.runs.writers import say, write_text
from jaxgen.tasks.augment import Flip
from jaxgen.tasks.codec import NAME, Codec
from jaxgen.tasks.size import Size

EVERY = 64  # batches between two notes of how far it has come


def cache(config: ConfigDict, folder: str | Path, dtype: str = "float16") -> None:
    """Write the latents of both splits, or go on with what is there. dtype: of moments; codes are int32.

    Errors: a config without a codec, or with tasks besides it; a codec that only gives draws; latents that are NaN or infinite,
    with the picture's name; a folder that holds a run, or latents of other pictures or of another codec.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=cache runs on one host; leave out --distributed")
    if (Path(folder) / "config.json").is_file():
        raise UserError(f"--workdir={folder} is the directory of a run; name another for what --mode=cache writes")
    config = without_states(config)
    texts = texts_of(config, Path(folder), dtype)
    if texts and not any(name == "codec" for name in config.tasks):
        return
    for split in ("train", "eval"):
        try:
            source = open_source(config, split)
        except NothingHeldOut:
            say("data     nothing is held out")
            continue
        _write(config, source, Path(folder) / split, dtype)


def texts_of(config: ConfigDict, folder: Path, dtype: str) -> bool:
    """Write what the config's frozen encoders say of every caption of the training data; whether there are any."""
    if not config.method.get("text_encoder"):
        return False
    source = open_source(config, "train")
    exp = Experiment.open(config, source.spec)
    lent = exp.frozen()
    for i, (_, name, text, _) in enumerate(each(exp.method.text_encoder, exp.spec)):
        field = exp.spec[text]
        ids = np.concatenate([source.distinct(text), np.asarray(field.null(1))])
        ids = np.unique(ids.reshape(len(ids), -1), axis=0).reshape(-1, *field.shape)
        told = {
            "encoder": weights_hash(lent[name].weights),
            "texts": hashlib.sha256(ids.tobytes()).hexdigest(),
            "dtype": dtype,
        }
        if (folder / name / TEXT_META).is_file():
            there = json.loads((folder / name / TEXT_META).read_text())
            if any(there[key] != value for key, value in told.items()):
                raise UserError(
                    f"{folder / name} holds states of other texts, or of another encoder; delete it, or name another --workdir"
                )
            say(f"texts    {folder / name} has all of {len(ids):,} texts")
            continue

        def encode(lent: Frozen, ids: Array) -> dict[str, Array]:
            made = heard(lambda ids: lent.model.encode_text(lent.weights, ids), ids)
            return {k: v.astype("float32" if k == "text_mask" else dtype) for k, v in made.items()}

        program = jax.jit(encode, out_shardings=parallel.replicated(exp.mesh))
        batch, found = exp.spread(exp.feed.batch), []
        for start in tqdm(range(0, len(ids), batch), "texts", leave=False, disable=None):
            rows = ids[start : start + batch]
            filled = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), 0)])
            made = jax.device_get(program(lent[name], parallel.put_batch(exp.mesh, {"ids": filled})["ids"]))
            found.append({k: v[: len(rows)] for k, v in made.items()})
        arrays = {"ids": ids, **{k: np.concatenate([part[k] for part in found]) for k in found[0]}}
        broken = ~np.isfinite(arrays["states"].astype(np.float32)).reshape(len(ids), -1).all(1)
        if broken.any():
            words = exp.tokenizers[min(i, len(exp.tokenizers) - 1)].decode(ids[int(np.argmax(broken))])
            raise UserError(
                f"the states of the caption {words!r} are NaN or infinite in {dtype}; leave out "
                "config.method.text_encoder.cache, so that they are made in every step"
            )
        (folder / name).mkdir(parents=True, exist_ok=True)
        for key, value in arrays.items():
            np.save(folder / name / f"{key}.npy", value)
        write_text(folder / name / TEXT_META, json.dumps({**told, "arrays": list(arrays)}, indent=1))
        say(
            f"texts    {len(ids):,} texts in {folder / name}: {dtype} {'x'.join(map(str, arrays['states'].shape[1:]))} of each"
        )
    return True


def _refuse_other(exp: Experiment) -> Codec:
    """The codec of an experiment that has nothing else."""
    tasks = [stage.task for stage in exp.stages]
    if not tasks or not isinstance(tasks[-1], Codec):
        raise UserError(
            "--mode=cache encodes pictures, and the config has no codec; name one: --config.tasks.codec.run=DIR"
        )
    if odd := [task for task in tasks[:-1] if not isinstance(task, Flip | Size)]:
        raise UserError(
            f"--mode=cache keeps pictures as they are and mirrored, and {type(odd[0]).__name__.lower()} makes others of them; "
            "leave it out"
        )
    if exp.config.data.transforms:
        raise UserError("--mode=cache reads pictures as they are; set config.data.transforms=()")
    return tasks[-1]


def _write(config: ConfigDict, source: Source, folder: Path, dtype: str) -> None:
    exp = Experiment.open(config, source.spec)
    codec, target = _refuse_other(exp), source.spec.target
    sides = 1 + any(isinstance(stage.task, Flip) for stage in exp.stages)
    lent = exp.frozen()[NAME]
    x = jax.ShapeDtypeStruct((1, *source.spec.shape), jnp.float32)
    kept = jax.eval_shape(codec.kept, lent, x)
    codes = kept.dtype == jnp.int32
    dtype = "int32" if codes else dtype
    values = {"values": lent.model.codes} if codes else {}
    field = Field((sides, *kept.shape[1:]), dtype, "tokens" if codes else "latent", "target", **values)
    spec = Spec({**exp.read_spec, target: field})
    data = {
        k: v
        for k, v in config.data.to_dict().items()
        if k not in FEED or k in ("labels", "levels", "templates", "tokenizer")
    }
    what = {
        "pictures": source.fingerprint(),
        "codec": weights_hash(lent.weights),
        "spec": spec.to_json(),
        "num": len(source),
    }
    told = _begun(folder, {**what, "data": data, "done": 0, "sums": [0.0, 0.0, 0.0]}, what)
    if told["done"] == told["num"]:
        say(f"latents  {folder} has all of {told['num']:,} pictures")
        return
    mode = "r+" if told["done"] else "w+"
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode, f.dtype, (len(source), *f.shape))
        for name, f in spec.items()
    }

    def encode(lent: Frozen, x: Array) -> tuple[Array, Array, Array]:
        x = to_float(x)
        seen = [x, x[..., ::-1, :]][:sides]
        kept = jnp.stack([codec.kept(lent, one) for one in seen], 1).astype(dtype)
        mean, square = codec.spread(lent, kept.reshape(-1, *kept.shape[2:]))
        places = tuple(range(1, mean.ndim - 1))
        return kept, *(v.mean(places).reshape(len(x), sides, -1).mean(1) for v in (mean, square))

    program = jax.jit(encode, out_shardings=parallel.replicated(exp.mesh))
    batch = exp.spread(exp.feed.batch)
    batches = eval_batches(source, batch, fields=tuple(exp.read_spec))
    start, sums = told["done"] // batch, [np.asarray(v, np.float64) for v in told["sums"]]
    for i, given in enumerate(
        tqdm(batches.start(start), "latents", len(batches) - start, leave=False, disable=None), start
    ):
        first = i * batch
        rows = min(batch, len(source) - first)
        z, mean, square = jax.device_get(program(lent, parallel.put_batch(exp.mesh, {target: given[target]})[target]))
        broken = ~np.isfinite(z[:rows].astype(np.float32)).reshape(rows, -1).all(1)
        if broken.any():
            raise UserError(_broken(source, first + int(np.argmax(broken)), dtype))
        for name, array in arrays.items():
            array[first : first + rows] = (z if name == target else given[name])[:rows]
        # of another batch size the first may have some that were summed
        new = slice(max(told["done"] - first, 0), rows)
        more = (new.stop - new.start, *(v[new].astype(np.float64).sum(0) for v in (mean, square)))
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        if (i + 1) % EVERY == 0 or first + rows == len(source):
            for array in arrays.values():
                array.flush()
            number, total, squares = sums
            mean_, std = total / number, np.sqrt(np.maximum(squares / number - (total / number) ** 2, 0.0))
            told |= {"done": first + rows, "sums": [v.tolist() for v in map(np.asarray, sums)]}
            told |= {"statistics": {"mean": mean_.tolist(), "std": std.tolist()}}
            write_text(folder / META, json.dumps(told, indent=1))
    say(f"latents  {told['num']:,} pictures in {folder}: {field.dtype} {'x'.join(map(str, field.shape))} of each")


def _begun(folder: Path, told: dict[str, Any], what: dict[str, Any]) -> dict[str, Any]:
    """What meta.json says; a new one where there is none. A UserError where it is of something else than `what`."""
    if not (folder / META).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / META, json.dumps(told, indent=1))
    there = json.loads((folder / META).read_text())
    known = {"codec": "another codec", "pictures": "other pictures", "num": "other pictures", "spec": "other fields"}
    for key, words in known.items():
        if there[key] != json.loads(json.dumps(what[key])):
            raise UserError(f"{folder} holds latents of {words}; delete it, or name another --workdir")
    return there


def _broken(source: Source, i: int, dtype: str) -> str:
    name = f" ({source.file(i)})" if hasattr(source, "file") else ""
    cure = "encode by --config.tasks.codec.run.dtype=float32, or leave the picture out"
    return f"latents of picture {i}{name} are NaN or infinite in {dtype}; {cure}"
