"""The contract: Specs, conditions and their nulls, roles of frozen models, keys by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import conditions, keys
from jaxgen.core.lender import Role
from jaxgen.core.spec import KINDS, Field, Spec, given, labels, pictures
from jaxgen.errors import UserError

FIELDS = {
    "image": Field((4, 4, 3), "uint8", "image"),
    "frames": Field((2, 4, 4, 3), "uint8", "frames"),
    "latent": Field((2, 2, 5), "float32", "latent"),
    "mask": Field((4, 4, 1), "uint8", "mask"),
    "label": Field((), "int32", "label", values=7, names=tuple("abcdefg")),
    "tokens": Field((6,), "int32", "tokens", values=100, empty=(1, 2, 2, 2, 2, 2)),
    "captions": Field((3, 6), "int32", "captions", values=100, empty=(1, 2, 2, 2, 2, 2)),
    "embedding": Field((8,), "float32", "embedding"),
    "text": Field((), "str", "text"),
}
TOLD = Spec({k: f for k, f in FIELDS.items() if k != "text"})


def random(spec, num, seed=0):
    """A batch of a Spec."""
    rng = np.random.default_rng(seed)
    draw = {"uint8": lambda f, n: rng.integers(0, 256, n), "float32": lambda f, n: rng.normal(size=n),
            "int32": lambda f, n: rng.integers(0, f.values, n)}  # fmt: skip
    return {k: jnp.asarray(draw[f.dtype](f, (num, *f.shape)), f.dtype) for k, f in spec.items()}


def test_there_is_a_field_of_every_kind_and_a_spec_survives_json():
    spec = Spec(FIELDS)
    assert {f.kind for f in spec.values()} == set(KINDS)
    again = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec and hash(again) == hash(spec) and again.label == "label" and again.classes == 7
    assert "text" not in spec.abstract(2) and spec.abstract(2)["frames"].shape == (2, 2, 4, 4, 3)


def test_a_spec_has_one_target_and_says_what_is_wrong():
    assert pictures((8, 8, 1), 10).shape == (8, 8, 1) and pictures((8, 8, 1), 10).conditions == labels(10)
    assert pictures((3, 8, 8, 1))["image"].kind == "frames" and pictures((8, 8, 1)).classes == 0
    for spec in (
        labels(3),
        Spec(a=FIELDS["image"]),
        Spec(pictures((2, 2, 1)), b=Field((1,), "int32", "tokens", "target")),
    ):
        with pytest.raises(UserError, match=r"targets .* one is needed"):
            _ = spec.target
    with pytest.raises(UserError, match="cannot be 'picture'"):
        Field((1,), "uint8", "picture")


def test_levels_are_those_of_uint8_pictures_alone():
    digits = pictures((8, 8, 1), levels=17)
    assert digits.levels == 17 and "of 17 levels" in str(digits) and pictures((8, 8, 1)).levels == 256
    assert Spec(image=Field((8, 8, 1), "float32", "image", "target")).levels == 0
    words, fits = digits.changed(pictures((8, 8, 1)))
    assert not fits and "of 17 levels" in words
    old = {name: {k: v for k, v in field.items() if k != "levels"} for name, field in digits.to_json().items()}
    assert Spec.from_json(old).changed(digits) == ("", True)  # of a run from before there were levels


def test_facts_are_those_of_the_spec():
    facts = given(pictures((8, 8, 1), 10), 4, 100, (0, 100))
    assert facts == {"spec": pictures((8, 8, 1), 10), "shape": (8, 8, 1), "classes": 10, "conditions": labels(10),
                     "levels": 256, "batch": 4, "steps": 100, "phase": (0, 100), "vocabulary": 256}  # fmt: skip


def test_every_condition_has_a_null_of_its_own_shape():
    """What a net is told of a batch and of nothing have the same shapes and dtypes; the null is no value of the data."""
    said, null = conditions.read(TOLD, random(TOLD, 3), 3), conditions.nulls(TOLD, 3)
    for name in TOLD:
        assert said[name].shape == null[name].shape and said[name].dtype == null[name].dtype, name
    assert (null["label"] == 7).all() and (null["tokens"] == jnp.array([1, 2, 2, 2, 2, 2])).all()
    assert all((null[k] == 0).all() for k in ("image", "frames", "latent", "mask", "embedding"))


def test_a_silent_batch_is_null_where_it_is_silent():
    batch = random(TOLD, 3)
    lacking = {k: v for k, v in batch.items() if k != "embedding"}
    cond = conditions.read(TOLD, lacking, 3)
    assert (cond["embedding"] == 0).all() and (cond["label"] == batch["label"]).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_whole_examples_are_dropped_all_conditions_at_once(share):
    num = 400
    cond, null = conditions.read(TOLD, random(TOLD, num), num), conditions.nulls(TOLD, num)
    found = conditions.drop(TOLD, cond, share, jax.random.key(3))
    lost = np.stack(
        [np.asarray((found[k] == null[k]).reshape(num, -1).all(1)) for k in ("label", "latent", "embedding")]
    )
    kept = np.stack([np.asarray((found[k] == cond[k]).reshape(num, -1).all(1)) for k in TOLD])
    assert (lost == lost[0]).all() and (kept[:, ~lost[0]]).all()
    assert abs(lost[0].mean() - share) < 0.08


def test_an_unknown_condition_is_named():
    with pytest.raises(UserError, match=r"sampling: the run knows no condition 'lable'; it is told: .*label"):
        conditions.refuse_unknown(TOLD, {"lable": 1}, "sampling")
    with pytest.raises(UserError, match="it is told nothing"):
        conditions.refuse_unknown(pictures((8, 8, 1)), {"label": 1}, "sampling")


def test_streams_of_all_uses_seeds_and_steps_are_different():
    """Keys by name never meet each other, nor `split` of any of them; seeds that JAX would cut short are refused."""
    for seed in (-1, 2**32, 2**40):
        with pytest.raises(UserError, match=rf"^seed={seed} must be at least 0 and at most 4294967295$"):
            keys.root(seed)
    seen = {}
    for seed in (0, 1, 2**31, 2**32 - 1):
        root = keys.root(seed)
        found = {("root",): root}
        for name in ("init", "train", "tasks", "sample", "evaluation"):
            for i in range(4):
                key = keys.named(root, name, i)
                found[name, i] = key
                found |= {(name, i, j): k for j, k in enumerate(jax.random.split(key, 4))}
        for use, key in found.items():
            data = tuple(np.asarray(jax.random.key_data(key)).tolist())
            assert data not in seen, f"seed {seed} {use} repeats {seen.get(data)}"
            seen[data] = (seed, use)


class Model:
    """Something to lend."""

    depth = 2


def test_a_role_says_what_it_needs_of_a_lender():
    """Only what the role asks for is compared: an unlabelled codec serves a labelled run."""
    mine, plain = pictures((8, 8, 1), 10), pictures((8, 8, 1))
    Role(Model, "codec").refuse("codec", "there", Model(), plain, mine, Model())
    cases = [
        (Role(int, "number"), plain, "codec.path names a run of method Model, which is no number; name another"),
        (Role(Model, "codec"), pictures((4, 4, 1)), r"is a run of images \(4, 4, 1\), not \(8, 8, 1\); name another"),
        (Role(Model, "teacher", conditions=True), plain, "is told nothing and this run label of 10; name another"),
    ]
    for role, theirs, words in cases:
        with pytest.raises(UserError, match=words):
            role.refuse("codec", "there", Model(), theirs, mine, Model())
    named, swapped = (pictures((8, 8, 1), 2, names) for names in (("cat", "dog"), ("dog", "cat")))
    teacher = Role(Model, "teacher", conditions=True)
    teacher.refuse("teacher", "there", Model(), named, pictures((8, 8, 1), 2), Model())
    with pytest.raises(UserError, match="knows label 0 as 'dog' and this run as 'cat'; name another"):
        teacher.refuse("teacher", "there", Model(), swapped, named, Model())
    other = Model()
    other.depth = 3
    with pytest.raises(UserError, match=r"a run with method\.depth 2, and this run has 3; let them agree"):
        Role(Model, "teacher", alike=("depth",)).refuse("teacher", "there", Model(), mine, mine, other)
