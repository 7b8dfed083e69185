"""Law 3: eight devices compute what one does, sharded parameters what replicated ones do, a scan what single steps do."""

import jax
import numpy as np

from jaxgen.config import files as configs
from jaxgen.core import parallel


def close(a, b, tolerance=1e-5):
    """Equal up to float order: error relative to each leaf's largest value."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max(initial=0) <= tolerance * max(1.0, np.abs(x).max(initial=0)), jax.tree_util.keystr(
            path
        )


def nets(state):
    return jax.device_get({k: (n.params, n.vars, n.ema) for k, n in state.nets.items()})


def test_eight_devices_are_one(kind, tiny, advance, plain_sgd):
    config = plain_sgd(tiny(kind))
    exp, _, _ = advance(config, num=0)
    start = jax.device_get(exp.init())
    _, one, told = advance(config, start)
    spread = configs.override(config, {"mesh": {"data": 8}})
    _, eight, told_by_eight = advance(spread, start)
    close(nets(one), nets(eight))
    np.testing.assert_allclose(told["loss"], told_by_eight["loss"], rtol=1e-5, atol=1e-6)
    sharded = configs.override(config, {"mesh": {"data": 2, "fsdp": 4}, "sharding": ((".*", "fsdp:256"),)})
    _, fsdp, _ = advance(sharded, start)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(fsdp.nets))
    close(nets(one), nets(fsdp))


def test_eight_devices_share_the_work_of_sampling(tiny, advance):
    """Operations per device, as the compiler counts them, fall with the number of devices, labels or not."""
    for name in ("dcgan_digits", "vae_digits"):
        flops = []
        for devices in (1, 8):
            exp, state, _ = advance(tiny(name, mesh={"data": devices}), num=0)
            program = exp.sampler(64).lower(state.view(), {}, exp.root).compile()
            flops.append(program.cost_analysis()["flops"])
        assert flops[1] < flops[0] / 4, name


def test_steps_per_call_do_not_change_a_bit(kind, tiny, advance):
    config = tiny(kind)
    exp, _, _ = advance(config, num=0)
    start = jax.device_get(exp.init())
    _, single, told = advance(config, start, num=4)
    _, scanned, told_at_once = advance(config, start, num=4, per_call=4)
    for x, y in zip(jax.tree.leaves(jax.device_get(single)), jax.tree.leaves(jax.device_get(scanned)), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(told["loss"], told_at_once["loss"])


def test_examples_stay_on_their_device_when_split_into_microbatches():
    mesh = parallel.make_mesh({"data": 8})
    place = parallel.batch_sharding(mesh)
    x = jax.device_put(np.arange(32.0).reshape(32, 1), place)
    split = jax.jit(
        lambda x: parallel.microbatches(x, 4), in_shardings=place, out_shardings=parallel.batch_sharding(mesh, 1)
    )
    assert (
        "all-gather" not in split.lower(x).compile().as_text()
        and "all-to-all" not in split.lower(x).compile().as_text()
    )
    parts = np.asarray(split(x))
    assert sorted(parts.ravel()) == list(range(32))
