"""Weights of words: the grammar of AUTOMATIC1111's web UI, by the examples of its own documentation; the tokens that they reach."""

from itertools import groupby

import numpy as np
import pytest

from jaxgen.core.spec import unweighed
from jaxgen.data.prompts import weights
from jaxgen.data.tokenize import Bytes
from jaxgen.errors import UserError

PUBLISHED = {  # `parse_prompt_attention`
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641),
        (".", 1.1),
    ],
    "[less] :) \\\\": [("less", 1 / 1.1), (" :) \\", 1.0)],
}  # fmt: skip


@pytest.mark.parametrize("prompt", PUBLISHED)
def test_weights_are_those_of_the_web_ui(prompt):
    text, counts = weights(prompt)
    runs = [
        (n, "".join(c for c, _ in part))
        for n, part in groupby(zip(text, np.round(counts, 6), strict=True), lambda x: x[1])
    ]
    wanted = PUBLISHED[prompt]
    assert [said for _, said in runs] == [said for said, _ in wanted]
    np.testing.assert_allclose([n for n, _ in runs], [n for _, n in wanted], atol=1e-6)


def test_a_weight_reaches_the_tokens_of_its_word_and_changes_none():
    tokenizer = Bytes(vocab=259, length=16)
    (ids,) = tokenizer.encode_prompts([" a (red:1.3) [ring]"])
    plain, counts = map(np.asarray, unweighed(ids))
    assert plain.tolist() == tokenizer.encode(["a red ring"])[0].tolist()
    np.testing.assert_allclose(counts, [1, 1, 1, 1.3, 1.3, 1.3, 1, *[0.909] * 4, 1, 1, 1, 1, 1], atol=1e-6)
    assert (tokenizer.encode_prompts(["a red ring"]) == tokenizer.encode(["a red ring"])).all()
    learned = Bytes(vocab=300, length=16).learned(["a red ring"] * 9)  # of pieces that begin with a space
    (ids,) = learned.encode_prompts(["a (red:1.3) [ring]"])
    plain, counts = map(np.asarray, unweighed(ids))
    assert [learned.decode([1, i]) for i in plain[1:4]] == ["a", "red", "ring"]
    np.testing.assert_allclose(counts[1:4], [1, 1.3, 0.909], atol=1e-6)
    for weight in (0.0, 0.001, 1.0, 8.0):
        (ids,) = tokenizer.encode_prompts([f"(x:{weight})"])
        assert ids.min() >= 0 and float(unweighed(ids)[1][1]) == pytest.approx(weight)
    for weight in (-1, 8.5):
        with pytest.raises(UserError, match=f"the weight {weight} of a word is not in 0..8; give it another"):
            tokenizer.encode_prompts([f"(x:{weight})"])


def test_a_long_text_has_rows_of_its_own():
    tokenizer = Bytes(vocab=259, length=6, chunks=3)
    ids, cut = tokenizer.encode_and_tell(["abcdefgh", "", "abcdefghijklmn"])
    (a, e), (start, end, pad) = (tokenizer.pieces([c])[0][0][0] for c in "ae"), (1, 2, 0)
    assert ids[0].tolist() == [
        [start, a, a + 1, a + 2, a + 3, end],
        [start, e, e + 1, e + 2, e + 3, end],
        [start, end, pad, pad, pad, pad],
    ]
    assert cut.tolist() == [False, False, True] and tokenizer.cut("abcdefghijklmn") == "mn"
    field = tokenizer.field()
    assert field.shape == (3, 6) and (field.null(2) == ids[1]).all() and tokenizer.field(2).shape == (2, 3, 6)
