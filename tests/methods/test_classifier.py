"""Classifiers: the loss by hand, the label wherever the Spec has it, the same images at all noise levels, and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.method import Classifies, JudgesNoise
from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.diffusion.paths import VE, Linear, VpSde
from jaxgen.diffusion.times import Importance
from jaxgen.errors import UserError
from jaxgen.methods.classifier import Classifier, NoisyClassifier

SPEC = Spec(pictures((2, 2, 1)), digit=Field((), "int32", "label", "condition", 3))
BATCH = {"image": jax.random.normal(jax.random.key(1), (6, 2, 2, 1)), "digit": jnp.array([0, 1, 2, 2, 1, 0])}
METHODS = [Classifier, NoisyClassifier]


class Dense(nn.Module):
    """Logits that are linear in the image, and in the clock where there is one."""

    answers: int = 3

    @nn.compact
    def __call__(self, x, clock=None, train=False):
        flat = x.reshape(len(x), -1)
        flat = flat if clock is None else jnp.concatenate([flat, clock[:, None] / 1000], -1)
        return flat, nn.Dense(self.answers)(flat)


def make(kind, spec=SPEC, **fields):
    return kind(net=Net(Dense(), optax.sgd(0.1)), spec=spec, **fields)


def test_the_loss_is_smoothed_cross_entropy_of_the_specs_label():
    method = make(Classifier, smoothing=0.3)
    w = method.init(jax.random.key(0), BATCH).view()
    (features, logits), found = method.classify(w, BATCH["image"]), method.eval_step(w, BATCH, jax.random.key(0))
    assert features.shape == (6, 4)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = 0.7 * np.eye(3)[BATCH["digit"]] + 0.1
    np.testing.assert_allclose(found["loss"], -(target * np.log(p)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found["nll"], -np.log(p[np.arange(6), BATCH["digit"]]), rtol=1e-5)
    np.testing.assert_array_equal(found["accuracy"], p.argmax(1) == BATCH["digit"])
    assert isinstance(method, Classifies)


@pytest.mark.parametrize("process", [VpSde(), VE(), Linear()], ids=lambda p: type(p).__name__)
def test_a_noisy_classifier_is_shown_images_of_one_size(process):
    """Whatever the process: data of unit variance stay so, and log p sums to one over the labels."""
    method = make(NoisyClassifier, process=process)
    assert isinstance(method, JudgesNoise) and method.classes == 3
    t = jnp.full(20_000, 0.6)
    x0, eps = jax.random.normal(jax.random.key(0), (2, 20_000, 1, 1, 1))
    a, s = (f(t).reshape(-1, 1, 1, 1) for f in (process.alpha, process.sigma))
    assert float(method.shown(a * x0 + s * eps, t)[0].std()) == pytest.approx(1, abs=0.02)
    w = method.init(jax.random.key(0), BATCH).view()
    each = [method.label_log_prob(w, BATCH["image"], jnp.full(6, 0.6), jnp.full(6, k)) for k in range(3)]
    np.testing.assert_allclose(jnp.exp(jnp.stack(each)).sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_a_classifier_needs_labels_and_learns_them(kind):
    with pytest.raises(UserError, match=r"a classifier needs labels; set config\.data\.labels=True"):
        make(kind, pictures((2, 2, 1)))
    method = make(kind)
    assert method.takes == ("label",)
    state, step = method.init(jax.random.key(0), BATCH), jax.jit(method.train_step)
    for i in range(200):
        state, metrics = step(state, BATCH, jax.random.key(i))
    assert float(metrics["accuracy"]) > 0.6 and float(metrics["loss"]) < np.log(3)


def test_times_with_a_memory_are_refused():
    with pytest.raises(UserError, match=r"method \(NoisyClassifier\) needs times drawn without a memory"):
        make(NoisyClassifier, times=Importance())


def test_several_labels_are_several_answers_and_all_must_be_right():
    spec = Spec(SPEC, size=Field((), "int32", "label", "condition", 2))
    batch = {**BATCH, "size": jnp.array([0, 1, 1, 0, 0, 1])}
    method = Classifier(net=Net(Dense(5), optax.sgd(0.1)), spec=spec, smoothing=0.0)
    assert spec.answers == 5 and spec.classes == 3
    w = method.init(jax.random.key(0), batch).view()
    answers, found = method.answers(w, batch["image"]), method.eval_step(w, batch, jax.random.key(0))
    right = {name: np.asarray(logits.argmax(-1) == batch[name]) for name, logits in answers.items()}
    log_p = {name: jax.nn.log_softmax(logits)[np.arange(6), batch[name]] for name, logits in answers.items()}
    np.testing.assert_allclose(found["nll"], -sum(log_p.values()), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], found["nll"] / 2, rtol=1e-5)
    np.testing.assert_array_equal(found["accuracy"], right["digit"] & right["size"])
    np.testing.assert_array_equal(found["accuracy_size"], right["size"])
    assert method.classify(w, batch["image"])[1].shape == (6, 3)  # the judge's label is the first
    with pytest.raises(UserError, match="a classifier that guides knows one label, and the data have digit, size"):
        NoisyClassifier(net=method.net, spec=spec)
