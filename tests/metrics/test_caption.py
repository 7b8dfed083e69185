"""What figures of captions must be, whatever the captions."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.caption import bleu, cider_d, distinct, longest_common, rouge_l, words

TEXTS = ["a red circle above a blue star", "two green squares", "a big star at the left", "a small yellow circle"]


def test_words_are_lower_case_without_punctuation():
    assert words("A man's red-hot pan, naïve; 3 eggs.") == ["a", "man's", "red-hot", "pan", "naïve", "3", "eggs"]


def test_a_perfect_caption_is_perfect_and_a_foreign_one_is_nothing():
    for texts, bleu_want, other in ((TEXTS, 1.0, 10.0), (["no such thing here"] * 4, 0.0, 0.0)):
        given = texts, [[text] for text in TEXTS]
        assert all(abs(found.mean - bleu_want) < 1e-3 for found in bleu(*given)[:1])
        assert rouge_l(*given).mean == pytest.approx(bleu_want)
        assert (cider_d(*given).mean > 5.0) == (other > 5.0)


def test_captions_of_other_pictures_are_worse_by_every_figure():
    references = [[text] for text in TEXTS]
    for measure in (lambda *given: bleu(*given)[0], rouge_l, cider_d):
        assert measure(TEXTS, references).mean > measure(TEXTS[1:] + TEXTS[:1], references).mean


def test_a_picture_alone_has_no_cider():
    assert cider_d(TEXTS[:1], [TEXTS[:1]]).mean == 0.0


def test_the_order_of_pictures_and_references_is_nothing():
    references, order = [[text, TEXTS[0]] for text in TEXTS], [2, 0, 3, 1]
    for measure in (lambda *given: bleu(*given)[3], rouge_l, cider_d):
        a = measure(TEXTS, references)
        b = measure([TEXTS[i] for i in order], [references[i][::-1] for i in order])
        np.testing.assert_allclose(a.each[order], b.each)


def test_the_longest_common_subsequence_is_symmetric():
    a, b = words(TEXTS[0]), words(TEXTS[2])
    assert (
        longest_common(a, b) == longest_common(b, a) == 2
        and longest_common(a, a) == len(a)
        and not longest_common(a, [])
    )


def test_distinct_counts_different_ngrams():
    assert distinct(["a b", "a b"], 1) == 0.5 and distinct(["a b c"], 2) == 1.0 and distinct(["a"], 2) == 0.0


@pytest.mark.parametrize("references", [[["a"]], [["a"], []], ["a", "b"], [["a"], ["..."]]])
def test_every_picture_needs_a_reference(references):
    with pytest.raises(UserError, match="reference"):
        bleu(["a", "b"], references)
