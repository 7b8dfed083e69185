"""Captions against references: BLEU, ROUGE-L, CIDEr-D, as COCO's evaluation counts them, without Java.

Each is a figure of a set and one of every picture. Words are what `words` makes of a text: lower case, without punctuation.
COCO's own program cuts words as the Penn treebank does, which no caption of lower-case words with spaces notices.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxgen.errors import UserError

ORDERS = 4  # n-grams of one to four words
RECALL = 1.2  # beta of ROUGE-L: how much more recall counts
SPREAD = 6.0  # sigma of CIDEr-D's penalty of lengths, in words
TINY, SMALL = 1e-15, 1e-9  # of COCO's BLEU: a picture without a 4-gram gets about 0 and not 0

Words = list[str]
Ngram = tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A figure of the set, and of every picture [N]."""

    mean: float
    each: np.ndarray


def words(text: str) -> Words:
    """Lower case, letters and digits of any script, apostrophes and hyphens within a word."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def read(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[Words, list[Words]]]:
    """(words of the candidate, words of each reference) of every picture."""
    if len(candidates) != len(references) or not candidates:
        raise UserError(
            f"captions of {len(candidates)} pictures and references of {len(references)}: give a caption and a list of references "
            "for every picture"
        )
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not any(words(text) for text in texts):
            raise UserError(f"picture {i} has no reference; give a list of at least one caption")
    return [(words(text), [words(ref) for ref in refs]) for text, refs in zip(candidates, references, strict=True)]


def ngrams(text: Words, n: int) -> Counter[Ngram]:
    """How often each row of n words occurs."""
    return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[Found]:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002); a set's counts are summed first. References: those of the nearest length count."""
    hits, tries, lengths = [], [], []
    for text, refs in read(candidates, references):
        most = [_union([ngrams(ref, n) for ref in refs]) for n in range(1, ORDERS + 1)]
        counts = [ngrams(text, n) for n in range(1, ORDERS + 1)]
        hits.append([sum((c & m).values()) for c, m in zip(counts, most, strict=True)])
        tries.append([max(0, len(text) - n + 1) for n in range(1, ORDERS + 1)])
        nearest = min((abs(len(ref) - len(text)), len(ref)) for ref in refs)[1]
        lengths.append([len(text), nearest])
    of_each = np.array([_bleu(*x) for x in zip(*map(np.array, (hits, tries, lengths)), strict=True)])
    of_set = _bleu(*(np.sum(x, 0) for x in (hits, tries, lengths)))
    return [Found(float(of_set[n]), of_each[:, n]) for n in range(ORDERS)]


def _union(counts: Sequence[Counter[Ngram]]) -> Counter[Ngram]:
    """The largest count of every n-gram."""
    total: Counter[Ngram] = Counter()
    for count in counts:
        total |= count
    return total


def _bleu(hits: np.ndarray, tries: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Geometric means of the precisions [4], less for candidates that are shorter than their references."""
    precision = np.cumprod((hits + TINY) / (tries + SMALL)) ** (1.0 / np.arange(1, ORDERS + 1))
    ratio = (lengths[0] + TINY) / (lengths[1] + SMALL)
    return precision * (math.exp(1.0 - 1.0 / ratio) if ratio < 1.0 else 1.0)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Found:
    """The longest common subsequence (Lin 2004): the best precision and the best recall, of any reference each."""
    each = []
    for text, refs in read(candidates, references):
        shared = [longest_common(text, ref) for ref in refs]
        p = max(s / max(len(text), 1) for s in shared)
        r = max(s / max(len(ref), 1) for s, ref in zip(shared, refs, strict=True))
        each.append((1.0 + RECALL**2) * p * r / (r + RECALL**2 * p) if p and r else 0.0)
    return Found(float(np.mean(each)), np.array(each))


def longest_common(a: Words, b: Words) -> int:
    """The number of words of the longest row that both have in this order, with gaps."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Found:
    """CIDEr-D, 0 to 10 (Vedantam et al. 2015, arXiv:1411.5726): n-grams weighed by how few pictures have them.

    The weights come of the references given, so that a picture's figure depends on those it is judged with; a picture alone has 0,
    however good its caption, and perfect captions among several references have less than 10.
    """
    pairs = read(candidates, references)
    seen = Counter(
        gram for _, refs in pairs for gram in {g for ref in refs for n in range(ORDERS) for g in ngrams(ref, n + 1)}
    )

    def vector(text: Words) -> list[dict[Ngram, float]]:
        """Of each n, the weight of every n-gram."""
        rare = lambda gram: math.log(len(pairs)) - math.log(max(1, seen[gram]))  # noqa: E731
        return [{gram: k * rare(gram) for gram, k in ngrams(text, n + 1).items()} for n in range(ORDERS)]

    def likeness(mine: list[dict[Ngram, float]], other: list[dict[Ngram, float]]) -> float:
        """Mean over n of the cosine, where a candidate's weight is at most the reference's."""
        found = 0.0
        for a, b in zip(mine, other, strict=True):
            norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
            dot = sum(min(v, b.get(gram, 0.0)) * b.get(gram, 0.0) for gram, v in a.items())
            found += dot / norms if norms else 0.0
        return found / ORDERS

    each = []
    for text, refs in pairs:
        mine, size = vector(text), max(len(text) - 1, 0)
        gaps = [math.exp(-((size - max(len(ref) - 1, 0)) ** 2) / (2.0 * SPREAD**2)) for ref in refs]
        each.append(10.0 * float(np.mean([g * likeness(mine, vector(ref)) for g, ref in zip(gaps, refs, strict=True)])))
    return Found(float(np.mean(each)), np.array(each))


def distinct(candidates: Sequence[str], n: int) -> float:
    """Share of a set's n-grams that are different (Li et al. 2016, arXiv:1510.03055); 0 where there are none."""
    counts = Counter(gram for text in candidates for gram in ngrams(words(text), n).elements())
    return len(counts) / max(1, counts.total())
