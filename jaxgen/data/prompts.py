"""What a prompt says besides its words: how much they count.

    (word) 1.1 times, ((word)) 1.21 times, (word:1.3) 1.3 times, [word] 1 / 1.1 times; a backslash before a bracket, or before
    another, is for what is meant as it stands.

The grammar of AUTOMATIC1111's web UI, and of diffusers' long-prompt-weighting pipelines.
"""

import re

from jaxgen.errors import UserError

MARK = re.compile(
    r"\\(?P<plain>[()\[\]\\])|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|(?P<open>[(\[])|(?P<close>[)\]])|.",
    re.DOTALL,
)
STEP = 1.1
MOST = 8.0


def weights(prompt: str) -> tuple[str, list[float]]:
    """(the text without marks, the weight of each of its characters); a bracket that nothing closes counts to the end.

    A UserError for a weight that is not in 0..8.
    """
    text, counts, opened = "", [], []

    def scale(start: int, factor: float) -> None:
        counts[start:] = [factor * count for count in counts[start:]]

    for found in MARK.finditer(prompt):
        kind = found.lastgroup
        if kind == "open":
            opened.append((found[0], len(text)))
        elif kind == "weight" and opened and opened[-1][0] == "(":
            scale(opened.pop()[1], float(found["weight"]))
        elif kind == "close" and opened and opened[-1][0] == {")": "(", "]": "["}[found[0]]:
            scale(opened.pop()[1], STEP if found[0] == ")" else 1 / STEP)
        else:
            said = found["plain"] or found[0]
            text, counts = text + said, counts + [1.0] * len(said)
    for bracket, start in reversed(opened):
        scale(start, STEP if bracket == "(" else 1 / STEP)
    if wrong := [count for count in counts if not 0 <= count <= MOST]:
        raise UserError(
            f"{prompt!r}: the weight {wrong[0]:g} of a word is not in 0..{MOST:g}; give it another: (word:1.3)"
        )
    start = len(text) - len(text.lstrip())
    return text.strip(), counts[start : start + len(text.strip())]
