"""BLEU, ROUGE-L and CIDEr-D against COCO's scorers."""

import json

import numpy as np
import pytest

from jaxgen.metrics import caption


def figures(cases, key="candidate"):
    """(BLEU-1..4, ROUGE-L, CIDEr-D) of cases."""
    given = [case[key] for case in cases], [case["references"] for case in cases]
    return [*caption.bleu(*given), caption.rouge_l(*given), caption.cider_d(*given)]


@pytest.mark.golden("caption_metrics")
def test_caption_metrics(folder):
    case, cases = (json.loads((folder / name).read_text()) for name in ("case.json", "cases.json"))
    arrays, tolerance, values = np.load(folder / "io.npz"), case["tolerance"], case["values"]
    perfect = [{**c, "candidate": c["references"][0]} for c in cases]
    sets = {
        "corpus": figures(cases),
        "corpus_of_short_candidates": figures(cases, "candidate_short"),
        "first_ten_pictures": figures(cases[:10]),
        "one_picture_perfect": figures(perfect[:1]),
        "perfect_candidates": figures(perfect),
    }
    for name, (*bleus, rouge, cider) in sets.items():
        np.testing.assert_allclose([b.mean for b in bleus], values[name]["bleu"], **tolerance, err_msg=name)
        np.testing.assert_allclose(
            [rouge.mean, cider.mean], [values[name][k] for k in ("rouge_l", "cider")], **tolerance
        )
    for prefix, name in (("", "corpus"), ("short_", "corpus_of_short_candidates")):
        *bleus, rouge, cider = sets[name]
        np.testing.assert_allclose([b.each for b in bleus], arrays[f"{prefix}bleu_sentence"], **tolerance)
        np.testing.assert_allclose(rouge.each, arrays[f"{prefix}rouge_l"], **tolerance)
        np.testing.assert_allclose(cider.each, arrays[f"{prefix}cider"], **tolerance, atol=1e-12)
