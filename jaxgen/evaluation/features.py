"""Features of image sets under a named protocol, and the measures computed from them.

A Judge is a frozen net that sees images the way its protocol says. A Collector turns batches of images into a Summary:
moments that stream, and rows only where a measure needs them. MEASURES compares two Summaries.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jaxgen.config.registry import nearest
from jaxgen.core import parallel
from jaxgen.core.lender import Frozen, Lender, weights_hash
from jaxgen.core.method import Classifies
from jaxgen.core.state import Array
from jaxgen.data.pipeline import eval_batches, share
from jaxgen.data.sources import Source
from jaxgen.errors import NotFinite, UserError
from jaxgen.evaluation.pictures import Pictures
from jaxgen.metrics.frechet import Moments, frechet, frechet_infinity, frechet_intra
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.kernel import kid
from jaxgen.metrics.manifold import density_coverage, precision_recall
from jaxgen.metrics.protocols import NATIVE, PROTOCOLS, FeatureProtocol, prepare
from jaxgen.metrics.statistics import Statistics, read_statistics, write_statistics
from jaxgen.pretrained.features import Inception
from jaxgen.runs.frozen import FrozenRun

Images = np.ndarray  # uint8 [N, H, W, C]
Views = dict[str, Array]  # "features" [B, D], "logits" [B, K], "spatial" [B, S]


@dataclass(frozen=True)
class Judge:
    """A frozen net: `see(frozen, images [B, H, W, C]) -> views`, of uint8 images or of what the protocol prepared of them.

    `weights` is the hash of its weights.
    """

    protocol: FeatureProtocol
    see: Callable[[Frozen, Array], Views]
    frozen: Frozen  # on the host
    weights: str
    classes: tuple[str, ...] = ()  # what it tells apart, where it is a classifier of the data


def borrow(lender: Lender) -> Frozen:
    """What it lends, on the host."""
    return parallel.to_host(lender.load(parallel.everywhere(parallel.make_mesh({"data": -1}), lender.abstract)))


def inception_judge(protocol: FeatureProtocol, path: str | Path = "") -> Judge:
    """Inception-v3 as `protocol` feeds it. path: the weights' file, where they are not to be downloaded."""
    frozen = borrow(Inception(str(path)))

    def see(frozen: Frozen, images: Array) -> Views:
        taps = frozen(prepare(images, protocol) if images.dtype == np.uint8 else images)
        return {"features": taps.pool3, "logits": taps.logits_unbiased, "spatial": taps.spatial}

    return Judge(protocol, see, frozen, weights_hash(frozen.weights))


def native_judge(run: str | Path) -> Judge:
    """A classifier that jaxgen trained in the run directory `run`, with averaged weights."""
    if not str(run):
        raise UserError(
            "the native protocol needs a classifier of the data: train one (configs/classifier_digits.py, ...) and name its "
            "run directory (native=DIR)"
        )
    lender = FrozenRun(str(run))
    if not isinstance(lender.method, Classifies):
        raise UserError(
            f"{run} is a run of method {lender.config.method.name}, not of a classifier; name a classifier's run"
        )
    frozen = borrow(lender)

    def see(frozen: Frozen, images: Array) -> Views:
        if images.shape[1:] != lender.spec.shape:
            raise UserError(f"{run} judges images {lender.spec.shape}, not {images.shape[1:]}; name another classifier")
        features, logits = frozen.model.classify(frozen.weights, images)
        return {"features": features, "logits": logits}

    names = lender.spec[lender.spec.label].names if lender.spec.label else ()
    return Judge(NATIVE, see, frozen, weights_hash(frozen.weights.nets), names)


def open_judge(protocol: str, native: str | Path = "", inception: str | Path = "") -> Judge:
    """The judge of a protocol's name."""
    if protocol == NATIVE.name:
        return native_judge(native)
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is unknown{nearest(protocol, [*PROTOCOLS, NATIVE.name])}")
    return inception_judge(PROTOCOLS[protocol], inception)


def refuse_low_precision(program: str) -> None:
    """A UserError where a StableHLO text multiplies in less than float32 (PEERS: TF32 moves FID by 0.3, bf16 by 5)."""
    for line in program.splitlines():
        if not re.search(r"stablehlo\.(dot|dot_general|convolution)\b", line):
            continue
        if line.count("HIGHEST") < 2 or re.search(r"x(bf16|f16|f8\w*)>", line):
            raise UserError(
                "a metric net was about to run below float32 precision, so its result is refused; measure with "
                f"jax.default_matmul_precision('highest') and float32 nets ({line.strip()[:80]} ...)"
            )


@dataclass(frozen=True)
class Viewer:
    """A Judge on all devices: uint8 images in any number and of any sizes -> views on the host, every image once."""

    judge: Judge
    mesh: Mesh
    batch: int = 64  # images per dispatch, over all devices
    programs: dict[tuple[int, ...], Callable] = field(default_factory=dict)

    def program(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> Callable:
        """Compiled for images [B, *shape], at full float32 precision."""
        if shape not in self.programs:
            whole = parallel.replicated(self.mesh)
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.judge.frozen)
            images = jax.ShapeDtypeStruct((self.size, *shape), dtype)
            spread = parallel.batch_sharding(self.mesh)
            with jax.default_matmul_precision("highest"):
                lowered = jax.jit(self.judge.see, in_shardings=(whole, spread), out_shardings=whole).lower(
                    abstract, images
                )
            refuse_low_precision(lowered.as_text())
            frozen = parallel.put_replicated(self.mesh, self.judge.frozen)
            compiled = lowered.compile()
            self.programs[shape] = lambda x: compiled(frozen, x)
        return self.programs[shape]

    @property
    def size(self) -> int:
        """The batch, rounded up to the devices."""
        shards = parallel.batch_devices(self.mesh)
        return -(-self.batch // shards) * shards

    def uniform(self, images: list[np.ndarray]) -> np.ndarray:
        """Images of several sizes [h, w, C] as one array [N, H, W, C]: each brought by the protocol from its own size to the net's.

        Those of one size stay as they are, as long as it is the first: a net is compiled for one size and for the net's own.
        """
        if len({x.shape[:2] for x in images}) == 1 and {x.shape[2] for x in images} == {1, 3}:
            images = [np.broadcast_to(x, (*x.shape[:2], 3)) for x in images]
        shapes = {x.shape for x in images}
        if len(shapes) == 1 and (shapes & self.programs.keys() or not self.programs):
            return np.stack(images)
        protocol = self.judge.protocol
        if not protocol.resize:
            sizes = " and ".join(sorted({f"{x.shape[1]}x{x.shape[0]}" for x in images})[:2])
            raise UserError(f"protocol {protocol.name} judges images of one size as they are, not {sizes}; give --size")
        return np.concatenate([_prepared(x[None], protocol) for x in images])

    def __call__(self, images: Images | list[np.ndarray]) -> dict[str, np.ndarray]:
        """[N, H, W, C], or images of several sizes -> views [N, ...]; every host gives the same images and gets all views."""
        images = self.uniform(images) if isinstance(images, list) else images
        program, parts = self.program(images.shape[1:], images.dtype), []
        share = self.size // jax.process_count()
        first = jax.process_index() * share
        for start in range(0, len(images), self.size):
            part = images[start : start + self.size]
            filled = np.concatenate([part, np.repeat(part[-1:], self.size - len(part), 0)])
            placed = parallel.put_batch(self.mesh, {"image": filled[first : first + share]})["image"]
            seen = jax.device_get(program(placed))
            parts.append({k: v[: len(part)] for k, v in seen.items()})
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


_prepared = jax.jit(prepare, static_argnums=1)


# ----------------------------------------------------------------------------------------------------------------------
# Summaries


@dataclass(frozen=True)
class Summary:
    """What is left of a set of images: moments, and rows where a measure asked for them."""

    count: int  # images; 0: unknown (statistics of another project)
    statistics: Statistics
    features: np.ndarray | None = None  # [N, D] float32
    logits: np.ndarray | None = None  # [N, K]
    labels: np.ndarray | None = None  # [N] that were asked for, or are known
    hash: str = ""  # of the images' origin and the judge
    share: tuple[int, int] | None = None  # (images of the whole set, seed) where it is known what these are a share of

    @property
    def origin(self) -> dict[str, Any]:
        """What a record says of a reference."""
        share = {"share": dict(zip(("of", "seed"), self.share, strict=True))} if self.share else {}
        return {"N": self.count or None, "hash": self.hash, **share}


def summarise(
    viewer: Viewer, batches: Iterable[tuple[Images, np.ndarray | None]], needs: frozenset[str], hash: str = ""
) -> Summary:
    """Batches (images, or a list of images of several sizes; labels or None) -> Summary.

    needs: which of "rows", "logits", "spatial" to keep beside moments.
    """
    moments: dict[str, Moments] = {}
    kept: dict[str, list[np.ndarray]] = {"features": [], "logits": [], "labels": []}
    for images, labels in batches:
        views = viewer(_whole(images))
        if broken := [key for key, view in views.items() if not np.isfinite(view).all()]:
            judge = viewer.judge
            raise UserError(f"the net of protocol {judge.protocol.name} (weights {judge.weights}) gives {broken[0]} that are not "
                            "finite; name sound weights")  # fmt: skip
        for key in ("features", *(["spatial"] if "spatial" in needs else [])):
            if key not in views:
                raise UserError(f"sFID needs Inception's spatial features, which {viewer.judge.protocol.name} has not")
            state = moments.get(key) or Moments.empty(views[key].shape[1])
            moments[key] = state.update(views[key])
        kept["features"] += [views["features"]] if "rows" in needs else []
        kept["logits"] += [views["logits"]] if "logits" in needs else []
        kept["labels"] += [np.asarray(labels)] if labels is not None else []
    if not moments:
        raise UserError("there are no images to measure; give at least two")
    settled = {key: state.settled() for key, state in moments.items()}
    spatial = settled.get("spatial")
    statistics = Statistics(
        settled["features"].mean, settled["features"].cov,
        *((spatial.mean, spatial.cov) if spatial else (None, None)),
    )  # fmt: skip
    rows = {key: np.concatenate(parts) if parts else None for key, parts in kept.items()}
    return Summary(settled["features"].count, statistics, **rows, hash=hash)


def _whole(images: Images | list[np.ndarray]) -> Images | list[np.ndarray]:
    """uint8, or a UserError: floats have no agreed range, and quantising them is the caller's decision."""
    for part in images if isinstance(images, list) else [images]:
        if part.dtype != np.uint8:
            raise UserError(
                f"measures take uint8 images, not {part.dtype}: quantise them first (jaxgen.images.to_uint8 takes [-1, 1])"
            )
    return images


def source_batches(
    source: Source, num: int = 0, batch: int = 256, seed: int = 0
) -> Iterator[tuple[Images, np.ndarray | None]]:
    """A seeded share of `num` images (0: all) of a data set, in order, with their labels where it has some.

    Where a file is broken, the next stands in for it, so that places stay: `Pictures` are for counting.
    """
    target, label = source.spec.target, source.spec.label
    fields = (target, *([label] if label else []))
    for part in eval_batches(source, batch, num, fields=fields, seed=seed):
        known = part["valid"] > 0
        yield part[target][known], part[label][known] if label else None


def digest(value: Any) -> str:
    """Sixteen hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where reference statistics are kept: JAXGEN_CACHE, else ~/.cache/jaxgen, / statistics."""
    return Path(os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache/jaxgen").expanduser() / "statistics"


def reference(
    viewer: Viewer,
    pictures: Pictures,
    needs: frozenset[str],
    num: int = 0,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Summary:
    """The Summary of a seeded share of `num` pictures (0: all); moments come from the cache where they were computed before.

    The cache's key is a hash of every byte of the set, the share, how pixels are decoded, protocol and weights, so that
    another set, resize or net never meets another's numbers.
    """
    judge, rows = viewer.judge, share(pictures, num, seed)
    decoded = [
        hashlib.sha256(np.ascontiguousarray(x)).hexdigest() for x in map(pictures.get, rows[:8]) if x is not None
    ]
    data = [pictures.fingerprint(content=True), hashlib.sha256(rows.tobytes()).hexdigest(), decoded]
    key = digest([data, asdict(judge.protocol), judge.weights, "spatial" in needs])
    path = cache_folder() / f"{judge.protocol.name}-{key}.npz"
    if not needs - {"spatial"} and path.is_file():
        with contextlib.suppress(UserError):  # a file that cannot be read is written anew
            found = from_file(path, judge)
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            if parallel.is_lead():
                tqdm.write(
                    f"reference from the cache, made {made} of {found.count:,} pictures ({path})", file=sys.stderr
                )
            return replace(found, hash=key, share=(len(pictures), seed))
    found = summarise(viewer, progress(pictures.batches(rows, viewer.size)), needs, key)
    found = replace(found, share=(len(pictures), seed))
    if parallel.is_lead():
        for line in pictures.told():
            tqdm.write(line, file=sys.stderr)
        try:
            write(path, found, judge)
        except OSError as error:  # a cache that cannot be written is no reason to lose a result
            tqdm.write(f"warning: {path} could not be written: {error.strerror}", file=sys.stderr)
    return found


def write(path: str | Path, summary: Summary, judge: Judge) -> None:
    """Statistics as a file that other projects read too; it says by what protocol and of how many images they were made."""
    about = {"protocol": judge.protocol.name, "weights": judge.weights, "N": summary.count}
    write_statistics(path, summary.statistics, about)


def from_file(path: str | Path, judge: Judge) -> Summary:
    """Statistics in a file (.npz, .pkl). Those that jaxgen made for another protocol or net are a UserError."""
    path = Path(path)
    statistics = read_statistics(path)
    about = statistics.about
    for key, mine in (("protocol", judge.protocol.name), ("weights", judge.weights)):
        if about.get(key, mine) != mine:
            raise UserError(
                f"{path} was made for {key} {about[key]}, and {mine} is asked for; make it anew with --save"
            )
    return Summary(about.get("N", 0), statistics, hash=hashlib.sha256(path.read_bytes()).hexdigest()[:16])


# ----------------------------------------------------------------------------------------------------------------------
# Measures


@dataclass(frozen=True)
class Measure:
    """`compute(made, real, protocol) -> figures`. needs: what Summaries must keep."""

    compute: Callable[[Summary, Summary, FeatureProtocol], dict[str, float]]
    needs: frozenset[str] = frozenset()


def _fid(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    a, b = made.statistics, real.statistics
    return {"fid": frechet(a.mean, a.cov, b.mean, b.cov)}


def _sfid(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    a, b = made.statistics, real.statistics
    if b.spatial_mean is None:
        raise UserError("the reference statistics hold no spatial features, which sFID needs; use ADM's .npz or images")
    return {"sfid": frechet(a.spatial_mean, a.spatial_cov, b.spatial_mean, b.spatial_cov)}


def _fid_infinity(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    found = frechet_infinity(made.features, real.statistics.mean, real.statistics.cov)
    return {"fid_infinity": found.value}


def _intra(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    if made.labels is None or real.labels is None:
        raise UserError("intra-class FID needs labels on both sides; train a labelled run (config.data.labels=True)")
    return {"intra_fid": frechet_intra(made.features, made.labels, _rows(real), real.labels).value}


def _kid(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    least = min(made.count, real.count)
    size = min(1000, least)  # clean-fid's rule for small sets
    if size == made.count == real.count:
        return {"kid": kid(made.features, _rows(real), subsets=1, size=size).mean}
    found = kid(made.features, _rows(real), size=size)
    return {"kid": found.mean} | (
        {"kid_std": found.std} if size < least else {}
    )  # of one and the same set nothing deviates


def _is(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    if made.count < 20:
        raise UserError(f"the Inception Score of {made.count} images says nothing: its 10 parts need 2 each; raise num")
    found = inception_score(made.logits, order=protocol.order)
    return {"is": found.mean, "is_std": found.std}


def _precision_recall(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    found = precision_recall(made.features, _rows(real))
    return {"precision": found.precision, "recall": found.recall}


def _density_coverage(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    found = density_coverage(made.features, _rows(real))
    return {"density": found.density, "coverage": found.coverage}


def _agreement(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    if made.labels is None or protocol.name != NATIVE.name:
        raise UserError("agreement needs images that were asked for by label, and the native protocol")
    return {"agreement": float((made.logits.argmax(-1) == made.labels).mean())}


def _entropy(made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    log_p = made.logits - np.logaddexp.reduce(made.logits.astype(np.float64), axis=1, keepdims=True)
    p = np.exp(log_p)
    mean = np.maximum(p.mean(0), 1e-12)
    return {"class_entropy": float(-(mean * np.log(mean)).sum()), "mean_entropy": float(-(p * log_p).sum(1).mean())}


def _rows(real: Summary) -> np.ndarray:
    if real.features is None:
        raise UserError("this measure compares single images, and the reference holds statistics only; give images")
    return real.features


ROWS, LOGITS = frozenset({"rows"}), frozenset({"logits"})
MEASURES = {
    "fid": Measure(_fid),
    "sfid": Measure(_sfid, frozenset({"spatial"})),
    "fid_infinity": Measure(_fid_infinity, ROWS),
    "intra_fid": Measure(_intra, ROWS),
    "kid": Measure(_kid, ROWS),
    "is": Measure(_is, LOGITS),
    "precision_recall": Measure(_precision_recall, ROWS),
    "density_coverage": Measure(_density_coverage, ROWS),
    "agreement": Measure(_agreement, LOGITS),
    "entropy": Measure(_entropy, LOGITS),
}


def needs_of(measures: Iterable[str]) -> frozenset[str]:
    """What Summaries must keep for these measures; an unknown name is a UserError."""
    for name in measures:
        if name not in MEASURES:
            raise UserError(f"measure {name!r} is unknown{nearest(name, MEASURES)}")
    return frozenset().union(*(MEASURES[name].needs for name in measures))


def compare(measures: Iterable[str], made: Summary, real: Summary, protocol: FeatureProtocol) -> dict[str, float]:
    """Figures by their full names: `fid:pytorch` of the protocol's number of images, else `fid@N:pytorch`."""
    figures: dict[str, float] = {}
    for name in measures:
        figures |= MEASURES[name].compute(made, real, protocol)
    if broken := [name for name, value in figures.items() if not np.isfinite(value)]:
        raise NotFinite(f"{', '.join(broken)} became NaN or infinite")
    count = "" if made.count == protocol.images else f"@{made.count}"
    return {f"{name}{count}:{protocol.name}": value for name, value in figures.items()}
