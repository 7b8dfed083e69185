"""What the laws share: a few training steps of a config, without the run directory around them."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from jaxgen.config import files as configs
from jaxgen.config.length import laid_out
from jaxgen.core import parallel
from jaxgen.data.pipeline import index_stream, lengths, load_all
from jaxgen.runs.experiment import Experiment, open_source

RATES = {"hvae_cifar": 1e-4, "glow_digits": 1e-4}  # of SGD, for kinds that diverge with 0.01


@pytest.fixture
def advance() -> Callable:
    """(config, start or None, first step, steps, steps per call) -> (experiment, state, metrics)."""

    def go(config, state=None, start=0, num=2, per_call=1):
        source = open_source(config, "train")
        exp = Experiment.open(config, source.spec)
        data = {k: v for k, v in load_all(source, 1 << 30).items() if k in exp.read_spec}
        data = parallel.put_replicated(exp.mesh, data)
        stream = index_stream(lengths(source), exp.batch, config.seed)
        state = exp.init() if state is None else jax.device_put(state, exp.shardings)
        program, history = exp.compile_steps(per_call, data) if num else None, []
        for step in range(start, start + num, per_call):
            indices = np.stack([stream.batch_at(step + i) for i in range(per_call)])
            batch = parallel.put_batch(exp.mesh, {"i": indices}, leading=1)["i"]
            state, metrics = program(state, batch, data, exp.root)
            history.append(jax.device_get(metrics))
        return exp, state, jax.tree.map(lambda *m: np.concatenate(m), *history) if history else {}

    return go


@pytest.fixture
def shared(tiny, plain_sgd) -> Callable:
    """kind -> the one config that the laws share, as `train` opens it, and with it its compiled programs."""

    def load(kind):
        config = plain_sgd(tiny(kind), RATES.get(kind, 1e-2))
        config = configs.override(config, {f"eval.{key}.num": 13 for key in config.eval if key != "grid"})
        return laid_out(configs.normalise(config), None)

    return load


@pytest.fixture
def plain_sgd() -> Callable:
    """A config with every optimizer replaced by SGD: Adam's first steps turn rounding into signs."""

    def optimizers(tree, path):
        for key, value in tree.items():
            if key == "optimizer":
                yield f"{path}.{key}"
            elif isinstance(value, dict):
                yield from optimizers(value, f"{path}.{key}")

    def change(config, lr=1e-2):
        found = list(optimizers(config.method.to_dict(), "method"))
        return configs.override(config, {p: {"name": "sgd", "lr": lr, "momentum": 0.9} for p in found})

    return change
