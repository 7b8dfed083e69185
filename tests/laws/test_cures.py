"""Every error that names a cure is got past by it: the cure is taken out of the message as a reader would, and applied."""

import ast
import contextlib
import functools
import re
from dataclasses import dataclass

import numpy as np
import pytest
from cases import CONFIGS, ROOT
from PIL import Image

from jaxgen import evaluate
from jaxgen.config import files as configs
from jaxgen.config.advice import gentler, lighter, smaller
from jaxgen.errors import UserError
from jaxgen.runs.directory import FREE
from jaxgen.runs.experiment import Experiment, open_source

VALUE = r""""[^"]*"|'[^']*'|\((?:[^()]|\([^()]*\))*\)|[^\s,;]+"""
CHANGE = re.compile(rf"""(?:--)?(?:config\.)?\b([a-z_]\w*(?:\.\w+)*)=({VALUE})""")


@dataclass(frozen=True)
class Case:
    """A config and the changes to it that are refused; `wrong`: the word in them that a suggestion is to replace."""

    config: str
    changes: dict
    wrong: str = ""

    def __hash__(self) -> int:
        return hash((self.config, str(self.changes)))


def attempt(config: str, changes: dict) -> None:
    """All that a training looks at before its first step is compiled."""
    whole = configs.override(configs.load(f"{ROOT}/configs/{config}.py:tiny"), changes)
    configs.phases(whole)
    source = open_source(whole, "train")
    exp = Experiment.open(whole, source.spec)
    exp.refuse_batch(len(source))
    evaluate.evaluators(exp)
    _ = exp.abstract


def where(config: str, changes: dict, key: str) -> list[str]:
    """The full path of a key of a message: as it stands, or that of the part which has it."""
    with contextlib.suppress(UserError):
        whole = configs.override(configs.load(f"{ROOT}/configs/{config}.py:tiny"), changes)
        known = configs._flat(configs.plain(whole))
        if key.split(".")[0] not in whole and (found := [path for path in known if path.endswith(f".{key}")]):
            return found
    return [key]


def cures(case: Case, changes: dict, message: str) -> list[dict]:
    """The ways out that a message names, each as changes to the config."""
    if found := re.search(r"; did you mean '(.+?)'\?|; there are: ([^,]+)", message):
        right = found[1] or found[2]
        swap = lambda text: text.replace(case.wrong, right) if isinstance(text, str) else text  # noqa: E731
        return [{swap(k): swap(v) for k, v in changes.items()}]
    if found := re.match(rf"config\.([\w.]+)=.* must .*, such as ({VALUE})$", message):
        return [{**changes, found[1]: found[2].strip("'")}]
    ways = []
    advice = message[message.rfind("; " if "; " in message else ": ") :]
    for way in re.split(r",? or (?=set|with|choose|--|config|method|data)", advice):
        change, kept = {}, dict(changes)
        for key, value in CHANGE.findall(
            way.replace('"--config', "--config").replace('"config', "config").replace('"', " ")
        ):
            change |= {path: value.strip("'") for path in where(case.config, changes, key)}
        for path, value in list(
            change.items()
        ):  # another part takes no fields of the old one; what is asked for is not dropped
            asked = [key for key in kept if key == path or key.startswith(f"{path}.")]
            kept = {key: old for key, old in kept.items() if key not in asked}
            if asked and value == "None":
                del change[path]
        ways += [{**kept, **change}] if change or kept != changes else []
    return ways


@functools.cache
def told(case: Case) -> tuple[str, ...]:
    """Every message on the way; fails where a cure is missing or leads nowhere."""
    seen: list[str] = []

    def follow(changes: dict, depth: int) -> None:
        try:
            attempt(case.config, changes)
            return
        except UserError as error:
            message = str(error)
        assert "\n" not in message and depth < 4, f"{case}: still after {seen}: {message}"
        seen.append(message)
        ways = cures(case, changes, message)
        assert ways, f"{case}: no cure is named by: {message}"
        for way in ways:
            assert way != changes, f"{case}: the cure changes nothing: {message}"
            follow(way, depth + 1)

    follow(case.changes, 0)
    assert seen, f"{case} is not refused"
    return tuple(seen)


PLAIN, MIXED = "PLAIN", "MIXED"  # stand for a file of pictures without labels, and a folder of pictures of many sizes
CASES = {
    "a net that enlarges otherwise": Case("srcnn_photos", {"method.net.scale": 2, "tasks.shrink.factor": 4}),
    "a regression that is told nothing": Case("dncnn_25", {"tasks.degrade": None}),
    "one noisy picture for noise2noise": Case("noise2noise", {"tasks.degrade.again": "False"}),
    "noise2void of small pictures": Case("srcnn_photos", {"method.learn_from": "noise2void"}),
    "a range that is none": Case("dncnn_25", {"tasks.degrade.degradation.sigma": (0.4, 0.1)}),
    "a side that cannot shrink": Case("realesrnet_x4", {"data.size": 18}),
    "an autoencoder told small pictures": Case("dae_digits", {"method.corrupt": "second_order"}),
    "kernels that have no middle": Case("srcnn_photos", {"method.net.kernels": (8, 1, 5)}),
    "a benchmark of a run that is told nothing": Case("ddpm_digits", {"eval.benchmark": {"path": MIXED}}),
    "a benchmark of pairs": Case("cyclegan_mnist", {"eval.benchmark": {"path": MIXED}}),
    "a benchmark without pictures": Case("dncnn_25", {"eval.benchmark": {}}),
    "a key": Case("vae_digits", {"method.net.latnet": "3"}, "latnet"),
    "a key of the run": Case("vae_digits", {"stepz": "3"}, "stepz"),
    "a section": Case("vae_digits", {"metod.net.latent": "3"}, "metod"),
    "a key of the data": Case("vae_digits", {"data.batchsize": "8"}, "batchsize"),
    "an evaluator": Case("vae_digits", {"eval.los.num": "8"}, "los"),
    "an evaluator to drop": Case("vae_digits", {"eval.gird": "None"}, "gird"),
    "a name": Case("ddpm_digits", {"method.solver": "dimm"}, "dimm"),
    "a name unlike any": Case("ddpm_digits", {"method.predict": "zzz"}, "zzz"),
    "a width": Case("vae_digits", {"method.net.latent": "0"}),
    "blocks of a hierarchical VAE": Case("hvae_mnist", {"method.net.enc": "8d2;4x1"}),
    "a grid that the encoder lacks": Case("hvae_mnist", {"method.net.dec": "2x1,8m2"}),
    "grids that do not follow": Case("hvae_mnist", {"method.net.enc": "16x1,4x1"}),
    "a decoder that ends too early": Case("hvae_mnist", {"method.net.enc": "8d2,4x1", "method.net.dec": "4x1"}),
    "two prices of a divergence": Case("vae_digits", {"method.capacity": "5", "method.free": "1"}),
    "a rate": Case("vae_digits", {"method.net.optimizer.lr": "-1"}),
    "a precision": Case("ddpm_digits", {"method.net.dtype": "bf16"}),
    "text for a number": Case("vae_digits", {"steps": "soon"}),
    "a placement": Case("vae_digits", {"data.placement": "gpu"}),
    "levels of a pyramid": Case("lapgan_digits", {"method.levels": 9}),
    "a factor of a coarser picture": Case("progan_digits", {"tasks.coarse.factor": 3}),
    "fewer encodings than codes": Case("vqvae_digits", {"method.net.quantizer.codes": 500}),
    "maps that do not grow": Case("msvq_mnist", {"method.ae.regularizer.sizes": (1, 4, 2)}),
    "maps that end too soon": Case("msvq_mnist", {"method.ae.regularizer.sizes": (1, 2)}),
    "a projected pyramid": Case("msvq_mnist", {"method.ae.regularizer.project": 2}),
    "a side that does not halve three times": Case("vqvae2_cifar", {"data.size": 12}),
    "a side that does not halve": Case("vqgan_cifar", {"data.size": 15}),
    "channels without a projection": Case("kl_cifar", {"method.ae.project": 0, "method.ae.z": 3}),
    "a posterior in a VQGAN": Case("vqgan_mnist", {"method.ae.regularizer": "normal"}),
    "codes in a KL autoencoder": Case("kl_cifar", {"method.ae.regularizer": "fsq_quantizer"}),
    "a discriminator after the end": Case("vqgan_mnist", {"method.disc_start": 4}),
    "a batch on 8 devices": Case("vae_digits", {"data.batch": 12}),
    "a batch in parts": Case("vae_digits", {"data.batch": 24, "method.microbatches": 2}),
    "two open axes": Case("vae_digits", {"mesh": {"data": -1, "fsdp": -1}}),
    "an axis that does not divide": Case("vae_digits", {"mesh": {"data": -1, "fsdp": 3}}),
    "more devices than there are": Case("vae_digits", {"mesh": {"data": 4, "fsdp": 4}}),
    "no rule for an array": Case("vae_digits", {"sharding": (("gen", "fsdp"),)}),
    "labels that are not there": Case("ddpm_digits", {"data": "arrays", "data.path": PLAIN, "data.labels": True}),
    "labels of a method without": Case("vqvae_digits", {"data.labels": True}),
    "a guide without labels": Case("ddpm_digits", {"data.labels": False}),
    "a guide without dropped labels": Case("ddpm_digits", {"method.condition_dropout": 0.0}),
    "dropped labels without null": Case("ddpm_digits", {"method.net.null_label": False}),
    "a label to avoid": Case("ddpm_digits", {"method.guide": "negative", "method.guide.avoid": 10}),
    "a guide's interval": Case("ddpm_digits", {"method.guide": "interval", "method.guide.low": 0.9}),
    "no signal at the end": Case("ddpm_digits", {"method.process.zero_snr": True}),
    "a learned variance": Case("ddpm_digits", {"method.solver": "ancestral", "method.solver.variance": "learned"}),
    "a chain": Case("edm_digits", {"method.objective": "hybrid", "method.solver": "ddim"}),
    "a chain for the grid": Case("edm_digits", {"method.solver": "ddim", "method.solver.grid": "leading"}),
    "more steps than the chain": Case("ddpm_digits", {"method.solver.steps": 1001}),
    "a chain's betas": Case("ddpm_digits", {"method.process.schedule": "linear", "method.process.beta_min": 0.5,
                                            "method.process.beta_max": 0.1}),
    "a chain of one": Case("iddpm_digits", {"method.process.steps": 1, "method.process.zero_snr": True, "method.solver.steps": 1,
                                           "method.predict": "v"}),
    "a grid's offset": Case("ddpm_digits", {"method.solver.steps": 4, "method.solver.grid": "leading",
                                            "method.solver.grid.offset": 900}),
    "a grid's levels": Case("edm_digits", {"method.solver.grid": "karras", "method.solver.grid.sigma_min": 90.0}),
    "a grid without end": Case("flow_digits", {"method.solver": "euler", "method.solver.space": "time",
                                                 "method.solver.grid": "karras"}),
    "a solver's space": Case("flow_digits", {"method.solver": "heun", "method.solver.space": "sigma"}),
    "a solver that divides": Case("flow_digits", {"method.solver": "dpm"}),
    "noise levels": Case("edm_digits", {"method.process.sigma_min": 90.0}),
    "noise rates": Case("ddpm_digits", {"method.process": "vp_sde", "method.process.beta_min": 30.0, "method.solver": "euler"}),
    "likelihood's levels": Case("edm_digits", {"method.nll.low": 300.0}),
    "consistency's space": Case("consistency_digits", {"method.process": "vp"}),
    "consistency's times": Case("consistency_digits", {"method.times": "importance"}),
    "a curriculum": Case("consistency_digits", {"method.curriculum.low": 2000}),
    "a straight path": Case("meanflow_digits", {"method.process": "edm"}),
    "a net's own uncertainty": Case("edm_digits", {"method.objective": "uncertainty"}),
    "a schedule": Case("vae_digits", {"method.net.optimizer.schedule": "cosin"}, "cosin"),
    "a schedule's hold": Case("vae_digits", {"method.net.optimizer.schedule": "inverse_sqrt"}),
    "groups": Case("ddpm_digits", {"method.net.groups": 7}),
    "a narrow net": Case("ddpm_digits", {"method.net.width": 2, "method.net.groups": 1}),
    "a net's heads": Case("ddpm_digits", {"method.net.heads": 7}),
    "a net's head_dim": Case("ddpm_digits", {"method.net.head_dim": 7}),
    "a patch": Case("dit_digits", {"method.net.patch": 3}),
    "a width of waves": Case("dit_digits", {"method.net.width": 66, "method.net.heads": 1}),
    "heads of a transformer": Case("dit_digits", {"method.net.heads": 7}),
    "a side that cannot be halved": Case("edm_digits", {"method.net": "ddpmpp", "method.net.mults": (1, 1, 1, 1, 1, 1)}),
    "heads of edm": Case("edm_digits", {"method.net": "ddpmpp", "method.net.head_dim": 7}),
    "a side that edm2 cannot halve": Case("edm2_digits", {"method.net.mults": (1, 1, 1, 1, 1, 1)}),
    "heads of edm2": Case("edm2_digits", {"method.net.head_dim": 7}),
    "taps": Case("edm_digits", {"method.net": "ncsnpp", "method.net.mults": (1, 2), "method.net.filter": (1.0,)}),
    "an activation": Case("vae_digits", {"method.net.encoder": "mlp_encoder", "method.net.encoder.act": "tnh"}, "tnh"),
    "a norm": Case("dcgan_digits", {"method.gen.norm": "btch"}, "btch"),
    "paths of a net without w": Case("dcgan_digits", {"method.gen_penalties": "path_length"}),
    "a param to train": Case("stylegan2_digits", {"method.disc.optimizer.train": "b64"}),
    "a fade of nets that do not grow": Case("dcgan_digits", {"method.fade": "linear"}),
    "truncation of a net without w": Case("dcgan_digits", {"method.truncate": "style"}),
    "a p without a logit that says real": Case("ada_digits", {"method.loss": "wasserstein"}),
    "a slope of one example with batch norm": Case("dcgan_digits", {"method.disc_penalties": "r1"}),
    "colours of two channels": Case("gan_ring8", {"method.augment": "ada"}),
    "a height to attend at": Case("biggan_digits", {"method.gen.attend": (5,)}),
    "a height of a discriminator": Case("biggan_digits", {"method.disc.attend": (8,)}),
    "a step larger than the data": Case("gan_ring8", {"method.n_critic": 40}),
    "labels drawn where none are told": Case("biggan_digits", {"data.labels": False}),
    "labels read where none are told": Case("wgan_gp_cifar_conditional", {"data.labels": False}),
    "parts of a short z": Case("biggan_digits", {"method.z_dim": 1}),
    "a filter of sum 0": Case("stylegan2_digits", {"method.gen.filter": (1.0, -1.0)}),
    "a filter of nothing": Case("stylegan2_digits", {"method.disc.filter": ()}),
    "patches larger than the picture": Case("dcgan_digits", {"method.disc": "patchgan"}),
    "parts of a minibatch deviation": Case("stylegan2_digits", {"method.disc.group_channels": 7}),
    "a prior": Case("dcgan_digits", {"method.prior": "gauss"}, "gauss"),
    "a distance": Case("consistency_digits", {"method.distance": "l3"}, "l3"),
    "a schedule of noise": Case("ddpm_digits", {"method.process.schedule": "cosin"}, "cosin"),
    "a task": Case("ddpm_digits", {"tasks.hid": {}}, "hid"),
    "nothing hidden": Case("inpaint_digits", {"tasks.hide.size": 0.01}),
    "a factor": Case("super_resolution_digits", {"tasks.shrink.factor": 3}),
    "a likelihood of codes": Case("ae_digits", {"eval.likelihood.num": 8}),
    "a likelihood of labels": Case("classifier_digits", {"eval.likelihood.num": 8}),
    "a condition that no net takes": Case("vae_digits", {"tasks.hide": {}}),
    "an augmentation that no net is told": Case("vae_digits", {"data.augment": ("geometric",)}),
    "a solver's form": Case("flow_digits", {"method.solver": "euler", "method.solver.space": "tim"}, "tim"),
    "a solver's bend": Case("edm_digits", {"method.solver": "dpm_plus", "method.solver.bend": "hen"}, "hen"),
    "a solver's kind": Case("edm_digits", {"method.solver": "unipc", "method.solver.kind": "bh3"}, "bh3"),
    "a solver's noise": Case("flow_digits", {"method.solver": "euler_maruyama", "method.solver.diffusion": "sgma"}, "sgma"),
    "endless noise": Case("flow_digits", {"method.solver": "euler_maruyama", "method.solver.diffusion": "sbdm"}),
    "a solver's variance": Case("ddpm_digits", {"method.solver": "ancestral", "method.solver.variance": "larg"}, "larg"),
    "where a grid ends": Case("ddpm_digits", {"method.solver.grid": "leading", "method.solver.grid.stop": "dat"}, "dat"),
    "a density of pixels made in turn": Case("pixelcnn_digits", {"method.likelihood": "gaussian"}),
    "channels made at once": Case("pixelcnnpp_cifar", {"method.likelihood": "categorical"}),
    "a picture that cannot be halved": Case("pixelcnnpp_digits", {"method.net.levels": 9}),
    "a rate that never ends at 0": Case("vae_digits", {"method.net.optimizer.schedule": "exponential"}),
    "levels of floats": Case("vae_digits", {"data.augment": ("dequantise",)}),
    "a density of levels": Case("glow_digits", {"method.dequantise": "none"}),
    "a density of floats": Case("glow_digits", {"data.augment": ("dequantise",)}),
    "halvings of a flow": Case("glow_digits", {"method.net.levels": 5}),
    "levels of points": Case("gan_ring8", {"data.levels": 17}),
    "levels drawn": Case("vae_digits", {"tasks.levels.rounding": "drow"}, "drow"),
    "grey levels": Case("vae_digits", {"method.likelihood": "bernoulli", "method.likelihood.binarize": "dynmic"}, "dynmic"),
    "pixels": Case("vae_digits", {"method.pixels": "men"}, "men"),
    "a start of codes": Case("vqvae_digits", {"method.net.quantizer.start": "kmens"}, "kmens"),
    "tokens of pictures without levels": Case("image_transformer_digits", {"data.augment": ("dequantise",)}),
    "a transformer of the other order": Case("image_transformer_digits", {"method.net": "masked_transformer"}),
    "more tokens than there are": Case("image_transformer_digits", {"method.draw.top_k": 18}),
    "a second net for tokens": Case("image_transformer_digits", {"method.guide": "auto"}),
    "a norm of a transformer": Case("image_transformer_digits", {"method.net.norm": "rmss"}, "rmss"),
    "heads of tokens": Case("image_transformer_digits", {"method.net.heads": 3}),
    "heads to turn": Case("image_transformer_digits", {"method.net.positions": "rope", "method.net.heads": 4}),
    "a hidden shape": Case("inpaint_digits", {"tasks.hide.shape": "bx"}, "bx"),
    "a label to avoid where none is told": Case("inpaint_digits", {"method.guide": "negative", "method.guide.avoid": 1,
                                                                   "method.condition_dropout": 0.1}),
    "pictures of many sizes": Case("vae_digits", {"data": "folder", "data.path": MIXED, "data.size": 0}),
    "modes of pictures": Case("gan_digits", {"eval.modes.num": 8}),
    "captions that are not there": Case("vae_digits", {"data.tokenizer": "bytes"}),
    "a text that no net reads": Case(
        "image_transformer_digits", {"data.tokenizer": "bytes", "data.templates": ("a {label}",)}
    ),
    "templates without labels": Case("vae_digits", {"data": "arrays", "data.path": PLAIN, "data.templates": ("a {label}",)}),
    "a text that no net takes": Case("vae_cifar", {"data.tokenizer": "bytes"}),
    "a text longer than an encoder's": Case("text_shapes", {"method.net.text.length": 8}),
    "rows of a text that is one sequence with its picture": Case("dalle_shapes", {"data.tokenizer.chunks": 2, "tasks.codec": None}),
    "rows of a text that is compared": Case("clip_shapes", {"data.tokenizer.chunks": 2}),
    "rows of a text to be written": Case("captioner_shapes", {"data.tokenizer.chunks": 2}),
    "heads of an encoder": Case("text_shapes", {"method.net.text.heads": 3}),
    "a caption without tokens": Case("captioner_shapes", {"data.tokenizer": "none"}),
    "heads of a captioner": Case("captioner_shapes", {"method.net.heads": 3}),
    "a patch of an encoder": Case("captioner_emoji", {"method.net.encoder.patch": 3}),
    "nothing to restore": Case("ddpm_digits", {"method.restorer": "ddrm"}),
    "two tasks to undo": Case("ddpm_digits", {"method.restorer": "pigdm", "tasks.hide": {}, "tasks.shrink": {}}),
    "noise to be restored without": Case("ddpm_digits", {"method.restorer": "ddnm", "tasks.shrink": {"noise": 0.1}}),
    "latents that are not there": Case("ddpm_digits", {"method.restorer": "latent", "tasks.hide": {}}),
    "a solver that is not there": Case("dcgan_digits", {"method.restorer": "ddrm", "tasks.hide": {}}),
    "a side that a translator does not halve": Case("pix2pix_emoji", {"method.gen.downs": 5}),
    "halvings of a translator to nothing": Case("cyclegan_mnist", {"method.gen.downs": 3}),
    "a translator that is told no picture": Case("pix2pix_emoji", {"tasks.hide": None}),
    "a distance of what is made of a latent": Case("dcgan_digits", {"method.pixel_loss": "l1"}),
    "pictures told to others": Case("pix2pix_emoji", {"method.fakes": "data"}),
    "an augmentation beside what is told": Case("pix2pix_emoji", {"method.augment": "diffaugment"}),
    "pairs of what is not paired": Case("cyclegan_mnist", {"method.name": "gan"}),
    "a cycle of no pictures": Case("cyclegan_mnist", {"method.gen": "dcgan_generator"}),
    "a grey picture that stays in colour": Case(
        "cyclegan_mnist", {"data.source_b": {"name": "shapes", "size": 8, "num": 64}, "method.identity": 0.5}
    ),
    "kinds of two sizes": Case("cyclegan_mnist", {
        f"data.source_{side}": {"name": "shapes", "size": size, "num": 64} for side, size in (("a", 8), ("b", 16))
    }),
    "a game of differences": Case("cyclegan_mnist", {"method.loss": "relativistic"}),
    "nothing to reverse": Case("dcgan_digits", {"tasks.reverse": {}}),
    "no pictures told": Case("ddpm_digits", {"eval.from_conditions.num": 8}),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.save(folder / "plain.npy", pictures)
    (folder / "mixed").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture[: 8 - i % 2, :, 0]).save(folder / f"mixed/{i}.png")
    places = {PLAIN: str(folder / "plain.npy"), MIXED: str(folder / "mixed")}
    for case in CASES.values():
        case.changes.update({k: places[v] for k, v in case.changes.items() if isinstance(v, str) and v in places})


@pytest.mark.parametrize("case", CASES)
def test_the_cure_of_an_error_is_got_past(case):
    told(CASES[case])


def test_a_run_may_follow_the_advice_of_a_failed_step():
    """What a run is told to change after a divergence, or when the memory is too small, it may change when it goes on."""
    for recipe in CONFIGS:
        config = configs.normalise(configs.load(f"{ROOT}/configs/{recipe}.py"))
        for advice in (gentler(config), smaller(config, 1), smaller(config, 8), lighter(config, 1, "data")):
            for way in advice.split(", or "):
                changes = {k: v.strip("'") for k, v in CHANGE.findall(way.replace('"', " "))}
                found = configs.differences(config, configs.override(config, changes))
                assert len(found) == len(changes) > 0
                free = all(FREE.fullmatch(d.partition(":")[0]) for d in found)
                assert free or "another --workdir" in way, found


def sites():
    """(file, line, pattern of the message) of every UserError of the house."""
    for path in sorted((ROOT / "jaxgen").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError" and node.args:
                yield path.relative_to(ROOT / "jaxgen").as_posix(), node.lineno, pattern(node.args[0])


def pattern(node) -> str:
    """A regular expression of the texts that an expression gives."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return pattern(node.left) + pattern(node.right)
    return ".*"


# Where else messages are: how many of a room (or a file of it) no case above gives, and why. A new error adds a case or is counted.
ELSEWHERE = {
    "apply": (36, "a command of its own, and what is wrong with a person's files; tests/apply"),
    "cache.py": (8, "a codec's run or folder is needed; tests/runs/test_cache.py"),
    "caption.py": (4, "a trained run and pictures are needed; tests/laws/test_runs.py"),
    "compare.py": (8, "a command of its own; tests/system/test_measure.py"),
    "config": (20, "what a config file or a command line holds; tests/config and tests/system/test_command.py"),
    "convert.py": (18, "files of other projects; tests/pretrained/test_convert.py"),
    "core": (31, "the code of a method of one's own, an adapter, a lent net, a second run or host; tests/core, tests/runs"),
    "core/task.py": (3, "two tasks that exclude each other; tests/tasks"),
    "data": (71, "what is wrong with the user's files or data set; tests/data"),
    "degradations": (5, "asked of what is not linear, or of other channels; tests/tasks/test_degradations.py"),
    "diffusion": (4, "a guide's second model, or values that the user must choose; tests/diffusion"),
    "evaluate.py": (3, "a trained run is needed; tests/system"),
    "evaluation": (46, "two sets of pictures, or the weights of a net to measure with, are needed; tests/laws, tests/metrics"),
    "images.py": (1, "what is wrong with a file; tests/data, tests/apply"),
    "latents": (18, "a trained run is needed, or pictures; tests/latents"),
    "losses": (1, "raised in the first step, for a batch of one; tests/losses"),
    "main.py": (12, "the flags of the command line; tests/system/test_command.py, tests/runs/test_cascade.py"),
    "methods": (14, "raised in the first step or a later phase, or other data are needed; tests/methods, tests/diffusion"),
    "metrics": (45, "functions of arrays: the message says what the argument must be; tests/metrics"),
    "nets": (26, "another net or other pictures are needed; tests/nets"),
    "pretrained/__main__.py": (2, "a command of its own; tests/pretrained/test_convert.py"),
    "pretrained/pipelines.py": (8, "files of other projects; tests/pretrained/test_convert.py"),
    "pretrained/shards.py": (4, "files of other projects; tests/pretrained/test_shards.py"),
    "pretrained/controlnet.py": (1, "a config that is not ours; tests/pretrained"),
    "pretrained/flux.py": (5, "configs that are not ours, and nets that are not theirs; tests/pretrained"),
    "pretrained/lora.py": (7, "files of other projects; tests/pretrained/test_lora.py"),
    "pretrained/mmdit.py": (3, "configs that are not ours, and nets that are not theirs; tests/pretrained"),
    "pretrained/pixart.py": (2, "configs that are not ours, and nets that are not theirs; tests/pretrained"),
    "pretrained/schedulers.py": (6, "configs of another project; tests/golden/test_schedulers.py"),
    "pretrained/single_files.py": (7, "files of other projects; tests/golden/test_single_files.py"),
    "pretrained/text_nets.py": (2, "folders and nets of another kind; tests/pretrained/test_weights_page.py"),
    "pretrained/transformers.py": (1, "nets that are not theirs; tests/pretrained"),
    "pretrained/unet_condition.py": (5, "configs that are not ours, and nets that are not theirs; tests/pretrained"),
    "pretrained/uvit.py": (2, "configs that are not ours, and nets that are not theirs; tests/pretrained"),
    "pretrained": (112, "files of other projects, and downloads; tests/pretrained"),
    "runs": (45, "a trained run is needed, or a second process; tests/runs, tests/system"),
    "sample.py": (4, "a trained run is needed; tests/system"),
    "tasks": (17, "an augmentation's fields, or a second run is needed; tests/tasks"),
    "train.py": (5, "raised by the loop; tests/system/test_command.py"),
}  # fmt: skip


@pytest.mark.slow  # the cases once more, in another worker perhaps
def test_every_error_is_a_case_or_has_a_reason_to_be_none():
    seen, others = [message for case in CASES.values() for message in told(case)], {}
    for file, line, wanted in sites():
        if not any(re.fullmatch(wanted, message) for message in seen):
            room = max((place for place in ELSEWHERE if f"{file}/".startswith(f"{place}/")), key=len, default=file)
            others.setdefault(room, []).append(f"{file}:{line}: {wanted}")
    for room, found in others.items():
        known, _ = ELSEWHERE.get(room, (0, ""))
        assert len(found) <= known, (
            f"{room}: {len(found)} messages have no case, {known} are accounted for: " + "; ".join(found)
        )
