"""Pictures that are said to have few levels: the first value that is none is named."""

import numpy as np
import pytest
from sets import write_arrays

from jaxgen.data import Arrays, Digits, load_all
from jaxgen.data.sources import OnLevels
from jaxgen.data.sources.points import Ring
from jaxgen.errors import UserError


def test_what_lies_on_the_levels_passes_and_the_first_that_does_not_is_named(tmp_path):
    x = np.floor(np.arange(17).repeat(16).reshape(-1, 4, 4, 1) * (255 / 16)).astype(np.uint8)  # cut, not rounded
    inner = Arrays(str(write_arrays(tmp_path / "a.npz", x, np.arange(17))), eval_fraction=0.0).open("train")
    source = OnLevels(inner, 17)
    assert source.spec.levels == 17 and source.fingerprint() == inner.fingerprint() and source.notes == inner.notes
    np.testing.assert_array_equal(load_all(source, 1 << 20)["image"], x)
    with pytest.raises(UserError, match=r"picture 1 has the value 15 at \(0, 0, 0\), which is none of the 16 levels"):
        OnLevels(inner, 16)[1]


def test_digits_are_on_theirs_and_floats_have_none():
    source = Digits().open("train")
    assert source.spec.levels == 17 and Digits(12).open("train").spec.levels == 256
    load_all(OnLevels(source, 17), 1 << 20)
    with pytest.raises(UserError, match=r"config.data.levels=17 must be .* set config.data.levels=0"):
        OnLevels(Ring(num=8, eval_num=8).open("train"), 17)
