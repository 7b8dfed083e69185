"""What is read is what was written, or is called damaged."""

import gc
import json
import random
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.core import parallel
from jaxgen.core.state import NetState, TrainState
from jaxgen.errors import UserError
from jaxgen.runs.checkpoint import Averages, Checkpoints, checksums

STORY = {"config": {"seed": 0, "sharding": [[".*", "replicate"]]}, "spec": {"image": {"shape": [8, 8, 1]}}}


def state(seed: int = 0) -> TrainState:
    """Arrays of several kinds and sizes, two of them alike."""
    rng = np.random.default_rng(seed)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(64, 96)), jnp.float32),
        "bias": jnp.zeros(96),
        "half": jnp.asarray(rng.normal(size=(40, 8)), jnp.bfloat16),
        "codes": jnp.asarray(rng.integers(0, 9, (16, 16)), jnp.int32),
        "used": jnp.ones(3, bool),
    }
    twin = jax.tree.map(jnp.copy, params)
    return TrainState(
        jnp.asarray(7, jnp.int32), {"net": NetState(params, {"mu": twin}, {}, {})}, extra={"loss": jnp.float32(0.1)}
    )


def abstract(tree, mesh, *axes):
    def one(x):
        fits = x.ndim and x.shape[0] % 8 == 0
        place = NamedSharding(mesh, PartitionSpec(*axes) if fits else PartitionSpec())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    return jax.tree.map(one, tree)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run directory with checkpoints 1 and 2."""
    path = tmp_path_factory.mktemp("written")
    keeper = Checkpoints(path)
    for step in (1, 2):
        keeper.save(step, state(step), STORY)
    keeper.close()
    return path


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and (np.asarray(x) == np.asarray(y)).all() for x, y in pairs)


@pytest.fixture
def young():
    """What lives already is no part of a collection: a damaged checkpoint asks for one, which takes a second late in the suite."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("young")
def test_256_zero_bytes_anywhere_are_noticed_or_harmless(written, tmp_path, capfd):
    """In every file of a checkpoint, at several places: never other arrays, never another story, never many lines."""
    like = abstract(state(), parallel.make_mesh({"data": 1}))
    rng, noticed, tried = random.Random(0), 0, 0
    files = sorted(f.relative_to(written) for f in (written / "checkpoints/2").rglob("*") if f.is_file())
    for file in files:
        size = (written / file).stat().st_size
        for _ in range(1 + min(3, size // 1000)):
            shutil.copytree(written, tmp_path / "run")
            content = bytearray((written / file).read_bytes())
            at = rng.randrange(max(1, size - 256))
            content[at : at + 256] = bytes(len(content[at : at + 256]))
            (tmp_path / "run" / file).write_bytes(content)
            keeper = Checkpoints(tmp_path / "run", read_only=True)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                step, found = keeper.restore(lambda step, keeper=keeper: (keeper.story(step), like)[1])
            assert same(found, state(step)) and keeper.story(step) == STORY, file
            told = [w for w in told if not issubclass(w.category, ResourceWarning)]  # these are shown to nobody
            assert len(told) == (step == 1), [str(w.message) for w in told]
            assert all("\n" not in str(w.message) and len(str(w.message)) < 500 for w in told)
            noticed, tried = noticed + (step == 1), tried + 1
            shutil.rmtree(tmp_path / "run")
    assert 5 < noticed < tried
    assert not capfd.readouterr().err


def test_checksums_do_not_depend_on_devices():
    """Written on one mesh, read on another: the sums are of whole arrays."""
    tree, mesh = state(), parallel.make_mesh({"data": 8})
    spread = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), tree, abstract(tree, mesh, "data"))
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(spread))
    assert checksums(tree) == checksums(spread) == checksums(jax.device_get(tree))
    kernel = np.array(tree.nets["net"].params["kernel"])
    kernel[[0, 1]] = kernel[[1, 0]]
    assert checksums({"x": kernel}) != checksums({"x": tree.nets["net"].params["kernel"]})


def test_checkpoints_of_versions_without_checksums_are_read(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / "run/checkpoints" / step / "checksums")
    keeper = Checkpoints(tmp_path / "run", read_only=True)
    step, found = keeper.restore(lambda _: abstract(state(), parallel.make_mesh({"data": 1})))
    assert step == 2 and same(found, state(2)) and keeper.story(2) == STORY


def test_where_nothing_whole_is_left_a_line_says_so_and_nothing_is_deleted(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    for step in ("1", "2"):
        file = tmp_path / "run/checkpoints" / step / "checksums/metadata"
        told = json.loads(file.read_text())
        told["arrays"]["nets/net/params/kernel"] ^= 1
        file.write_text(json.dumps(told))
    keeper, like = Checkpoints(tmp_path / "run", read_only=True), abstract(state(), parallel.make_mesh({"data": 1}))
    with (
        pytest.warns(UserWarning, match=r"checkpoint 2 in .*kernel is not what was written.*falling back to step 1"),
        pytest.raises(UserError, match=r"checkpoint 1 in .* and so are all others; restore it, or start afresh"),
    ):
        keeper.restore(lambda _: like)
    with pytest.raises(UserError, match=r"checkpoint 2 .* is damaged .*; name another --step"):
        keeper.restore(lambda _: like, 2)
    assert keeper.steps() == [1, 2]


def test_a_reader_follows_a_training_that_deletes_what_it_was_about_to_read(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    keeper, like = Checkpoints(tmp_path / "run", read_only=True), abstract(state(), parallel.make_mesh({"data": 1}))
    folder, deleted = tmp_path / "run/checkpoints", []

    def meanwhile(step):
        if not deleted:
            deleted.append(step)
            (folder / "2").rename(folder / "3")
        return like

    assert keeper.restore(meanwhile)[0] == 3 and deleted == [2]


def test_snapshots_have_checksums_too(tmp_path):
    tree = {"net": {"std0.05": {"kernel": jnp.arange(6.0)}}}
    keeper = Averages(tmp_path)
    keeper.write(4, tree)
    keeper.wait()
    assert same(keeper.restore(4, abstract(tree, parallel.make_mesh({"data": 1}))), tree)
    file = tmp_path / "averages/4/checksums/metadata"
    file.write_text(file.read_text().replace(":", ":1", 2))
    with pytest.raises(UserError, match=r"snapshot 4 in .* is damaged .*; delete .*averages/4 to do without it"):
        keeper.restore(4, abstract(tree, parallel.make_mesh({"data": 1})))


def test_fewer_checkpoints_to_keep_make_room_before_the_next_is_written(tmp_path):
    """A full disk says to lower config.keep: what is then too many goes first, never the newest."""
    keeper = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        keeper.save(step, state(step), STORY)
    keeper.close()
    keeper = Checkpoints(tmp_path, keep=1)
    keeper.forget_old(1)
    assert keeper.steps() == [3] and [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]
    keeper.close()
