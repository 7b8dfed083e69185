"""Measures of stored features: pytorch-fid, clean-fid and torch-fidelity reproduced to the case's tolerances."""

import json
import re

import numpy as np
import pytest

from jaxgen.metrics.frechet import Moments, frechet_of
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.kernel import kid, mmd2
from jaxgen.metrics.manifold import precision_recall


@pytest.fixture
def case(folder):
    return json.loads((folder / "case.json").read_text())


@pytest.fixture
def arrays(folder):
    return dict(np.load(folder / "io.npz"))


def tolerance(case, measure):
    """The first number of a sentence such as "rel 1e-5 in float64; abs 1e-3 in fp32": ours are float64."""
    return float(re.search(r"rel ([\d.e+-]+)", case["tolerance"][measure])[1])


@pytest.mark.golden("metrics_features")
def test_fid(case, arrays):
    values, rel = case["values"], tolerance(case, "fid")
    a, b = Moments.of(arrays["features1"]), Moments.of(arrays["features2"])
    for name in ("fid_pytorch_fid", "fid_cleanfid", "fid_torch_fidelity"):
        assert frechet_of(a, b) == pytest.approx(values[name], rel=rel), name
        assert frechet_of(b, a) == pytest.approx(values[name], rel=rel), name
    assert frechet_of(a, a) == pytest.approx(values["fid_self"], abs=1e-6)


@pytest.mark.golden("metrics_features")
def test_fid_of_fewer_images_than_features(case, arrays):
    few = arrays["features_rank_deficient"]
    a, b = Moments.of(few), Moments.of(arrays["features1"][:, : few.shape[1]])
    names = [n for n in case["values"] if n.startswith("fid_rank_deficient")]
    assert names
    for name in names:
        width = int(re.search(r"first(\d+)", name)[1])  # so many features of features1, which are all of them here
        assert width == few.shape[1]
        for got in (frechet_of(a, b), frechet_of(b, a)):
            assert got == pytest.approx(case["values"][name], rel=tolerance(case, "fid"))


@pytest.mark.golden("metrics_features")
def test_kid(case, arrays):
    values, rel = case["values"], tolerance(case, "kid")
    x, y = arrays["features1"], arrays["features2"]
    num = values["kid_n"]
    assert mmd2(x[:num], y[:num]) == pytest.approx(values["kid_poly3_unbiased_full_first_n"], rel=rel)
    names = [n for n in values if n.startswith("kid_cleanfid")]
    assert names
    for name in names:
        subsets, most, seed = map(int, re.search(r"subsets(\d+)_of_max(\d+)_seed(\d+)", name).groups())
        got = kid(y, x, subsets=subsets, size=min(len(x), len(y), most), seed=seed)  # clean-fid draws its second first
        assert got.mean == pytest.approx(values[name], rel=rel), name


@pytest.mark.golden("metrics_features")
def test_inception_score(case, arrays):
    found = {n: re.fullmatch(r"inception_score_splits(\d+)_(no)?shuffle", n) for n in case["values"]}
    assert any(found.values())
    for name, match in found.items():
        if match:
            order = "given" if match[2] else "shuffled"
            got = inception_score(arrays["logits"], splits=int(match[1]), order=order)
            want = pytest.approx(case["values"][name], rel=tolerance(case, "is"), abs=1e-12)
            assert [got.mean, got.std] == want, name


@pytest.mark.golden("metrics_features")
@pytest.mark.parametrize("block", [100, 1024])
def test_precision_and_recall(case, arrays, block):
    """Exact: counts are compared; the stored shares are float32."""
    generated, real = arrays["features1"], arrays["features2"]
    names = [n for n in case["values"] if re.fullmatch(r"prc_k\d+", n)]
    assert names
    for name in names:
        got, want = precision_recall(generated, real, k=int(name[5:]), block=block), case["values"][name]
        assert round(got.precision * len(generated)) == round(want["precision"] * len(generated)), name
        assert round(got.recall * len(real)) == round(want["recall"] * len(real)), name
        assert got.f_score == pytest.approx(want["f_score"], abs=1e-6)
