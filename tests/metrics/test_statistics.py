"""Statistics files of other projects: round trips, broken files, and pickles that want to run something."""

import os
import pickle
import struct

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.frechet import Moments, frechet_of
from jaxgen.metrics.statistics import Statistics, read_images, read_statistics, write_statistics


@pytest.fixture
def moments():
    return Moments.of(np.random.default_rng(0).standard_normal((50, 6)))


@pytest.fixture
def statistics(moments):
    return Statistics(moments.mean, moments.cov)


def equal(a: Statistics, b: Statistics) -> None:
    for name in ("mean", "cov", "spatial_mean", "spatial_cov"):
        x, y = getattr(a, name), getattr(b, name)
        if y is None:
            assert x is None
        else:
            np.testing.assert_array_equal(x, y)
            assert x.dtype == np.float64


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize("spatial", [False, True])
def test_round_trip(tmp_path, statistics, suffix, spatial):
    if spatial:
        statistics = Statistics(statistics.mean, statistics.cov, np.arange(3.0), np.eye(3))
    path = tmp_path / "new" / f"reference{suffix}"
    write_statistics(path, statistics)
    equal(read_statistics(path), statistics)
    assert os.listdir(path.parent) == [path.name]  # nothing is left beside it


def test_pytorch_fid_reads_what_we_write_and_we_what_it_writes(tmp_path, statistics):
    write_statistics(tmp_path / "ours.npz", statistics)
    with np.load(tmp_path / "ours.npz") as file:
        assert sorted(file.files) == ["mu", "sigma"]
        np.testing.assert_array_equal(file["sigma"], statistics.cov)
    np.savez_compressed(tmp_path / "theirs.npz", mu=statistics.mean.astype(np.float32), sigma=statistics.cov)
    assert read_statistics(tmp_path / "theirs.npz").mean.dtype == np.float64


def test_adm(tmp_path, statistics):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    arrays = {"mu": statistics.mean, "sigma": statistics.cov, "mu_s": np.ones(3), "sigma_s": np.eye(3)}
    np.savez(tmp_path / "virtual.npz", arr_0=images, **arrays)
    equal(read_statistics(tmp_path / "virtual.npz"), Statistics(statistics.mean, statistics.cov, np.ones(3), np.eye(3)))
    np.testing.assert_array_equal(read_images(tmp_path / "virtual.npz"), images)
    np.savez(tmp_path / "samples.npz", images)
    np.testing.assert_array_equal(read_images(tmp_path / "samples.npz"), images)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_edm_of_any_protocol(tmp_path, statistics, protocol):
    path = tmp_path / "edm.pkl"
    path.write_bytes(pickle.dumps({"mu": statistics.mean, "sigma": statistics.cov}, protocol))
    equal(read_statistics(path), statistics)


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_name_numpy_had_before_2(tmp_path, statistics, protocol):
    """Files of the time say numpy.core; the length of the name is part of protocol 4."""
    data = pickle.dumps({"mu": statistics.mean, "sigma": statistics.cov}, protocol)
    now, then = b"numpy._core.multiarray", b"numpy.core.multiarray"
    if protocol == 4:  # SHORT_BINUNICODE and a frame, whose length counts the same byte
        now, then = (b"\x8c" + bytes([len(n)]) + n for n in (now, then))
        start = data.index(b"\x95") + 1
        length = struct.unpack("<Q", data[start : start + 8])[0] - data.count(now)
        data = data[:start] + struct.pack("<Q", length) + data[start + 8 :]
    assert now in data
    (tmp_path / "old.pkl").write_bytes(data.replace(now, then))
    equal(read_statistics(tmp_path / "old.pkl"), statistics)


def test_edm2_holds_a_pair_for_every_feature_net(tmp_path, statistics):
    other = {"mu": np.zeros(2), "sigma": np.eye(2)}
    table = {"fid": {"mu": statistics.mean, "sigma": statistics.cov}, "fd_dinov2": other}
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(table))
    equal(read_statistics(tmp_path / "edm2.pkl"), statistics)
    equal(read_statistics(tmp_path / "edm2.pkl", measure="fd_dinov2"), Statistics(other["mu"], other["sigma"]))
    with pytest.raises(UserError, match="no mu and sigma of 'kid', only fid, fd_dinov2"):
        read_statistics(tmp_path / "edm2.pkl", measure="kid")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts_of_pickled_arrays(tmp_path, dtype, order):
    sigma = np.array([[2.0, 0.5, 0.0], [0.5, 3.0, 0.25], [0.0, 0.25, 1.0]])
    table = {
        "mu": np.array([1.0, 2.0, 3.0], dtype),
        "sigma": np.array(sigma, dtype, order=order),
        "count": np.float64(5),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(table, 2))
    equal(read_statistics(tmp_path / "x.pkl"), Statistics(np.array([1.0, 2, 3]), sigma))


def test_what_was_written_measures_the_same(tmp_path, moments, statistics):
    other = Moments.of(np.random.default_rng(1).standard_normal((50, 6)) + 1)
    write_statistics(tmp_path / "a.pkl", statistics)
    back = read_statistics(tmp_path / "a.pkl")
    assert frechet_of(Moments(50, back.mean, back.cov * 49), other) == pytest.approx(
        frechet_of(moments, other), rel=1e-12
    )


class Runs:
    """A pickle that runs a command where it is read."""

    def __init__(self, call, *arguments):
        self.state = call, arguments

    def __reduce__(self):
        return self.state


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path, statistics, protocol):
    witness = tmp_path / "it-ran"
    table = {"mu": statistics.mean, "sigma": Runs(os.mkdir, str(witness))}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(table, protocol))
    with pytest.raises(UserError, match=r"evil\.pkl asks for the global \w+\.mkdir, .*not executed"):
        read_statistics(tmp_path / "evil.pkl")
    assert not witness.exists()
    pickle.loads((tmp_path / "evil.pkl").read_bytes())  # the trap does work
    assert witness.exists()


@pytest.mark.parametrize(
    "call",
    [(eval, "1"), (getattr, 1, "real"), (np.load, "x"), (np.dtype, "O"), (np.frombuffer, b"12345678"), (bytearray, 3)],
)
def test_everything_but_arrays_of_numbers_is_refused(tmp_path, call):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"mu": Runs(*call), "sigma": 1}))
    with pytest.raises(UserError, match="not executed"):
        read_statistics(tmp_path / "x.pkl")


def test_arrays_of_objects_are_refused(tmp_path):
    objects = np.array([1, None], object)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"mu": objects, "sigma": objects}))
    with pytest.raises(UserError, match="an array of type 'O"):
        read_statistics(tmp_path / "x.pkl")
    np.savez(tmp_path / "x.npz", mu=objects, sigma=objects)
    with pytest.raises(UserError, match="archive of numbers"):
        read_statistics(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu \(3,\) and sigma \(4, 4\)"),
        ({"mu": np.zeros((3, 3)), "sigma": np.eye(3)}, "do not match"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)}, "not finite"),
        ({"mean": np.zeros(3)}, "no mu and sigma of 'fid', only mean"),
        ({}, "only nothing"),
    ],
)
def test_wrong_numbers_are_named(tmp_path, suffix, arrays, message):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(pickle.dumps(arrays))
    with pytest.raises(UserError, match=message):
        read_statistics(path)


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_broken_file_is_named(tmp_path, statistics, suffix, keep):
    path = tmp_path / f"x{suffix}"
    write_statistics(path, statistics)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=f"x{suffix} is not a readable"):
        read_statistics(path)


def test_other_mistakes(tmp_path, statistics):
    with pytest.raises(UserError, match="not a file"):
        read_statistics(tmp_path / "absent.npz")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UserError, match="pytorch-fid, ADM"):
        read_statistics(tmp_path / "x.csv")
    with pytest.raises(UserError, match="written as"):
        write_statistics(tmp_path / "y.txt", statistics)
    with pytest.raises(UserError, match="not finite"):
        write_statistics(tmp_path / "y.npz", Statistics(statistics.mean * np.nan, statistics.cov))
    assert not (tmp_path / "y.npz").exists()
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a readable"):
        read_statistics(tmp_path / "single.npz")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="holds a list"):
        read_statistics(tmp_path / "list.pkl")
    with pytest.raises(UserError, match="no images"):
        write_statistics(tmp_path / "z.npz", statistics)
        read_images(tmp_path / "z.npz")
