"""The latents of a StyleGAN2 of MNIST: 32 held-out digits projected, and the directions of ink and slant.

    python experiments/latents_mnist.py RUN --native=RUN_OF_A_CLASSIFIER

RUN and the classifier as `experiments/gans.py --only mnist/StyleGAN2` trains them. Writes experiments/gans/latents.json, the
table of its README.md, and pictures.
"""

import argparse
import json
import time
from pathlib import Path

from gans import OUT, insert, name_of

from jaxgen.images import save_grid
from jaxgen.latents.verb import latents

USES = {  # what -> (tool, its keys, bar in words)
    "W+, 32 held-out digits": ("project", {"num": 32, "space": "w+"}, "error <= half that of the nearest training digit"),
    "W, the same digits": ("project", {"num": 32, "space": "w"}, "reported"),
    "ink": ("directions", {"to": "ink"}, "rank correlation >= 0.9, label kept >= 0.9"),
    "slant": ("directions", {"to": "slant"}, "rank correlation >= 0.9, label kept >= 0.9"),
}  # fmt: skip


def table(results: dict[str, dict[str, float]]) -> str:
    """As Markdown."""
    lines = ["| what | bar | obtained | seconds |", "|---|---|---|---|"]
    for name, (*_, bar) in USES.items():
        found = dict(results[name])
        seconds = found.pop("seconds")
        obtained = ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in found.items())
        lines.append(f"| {name} | {bar} | {obtained} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """All uses, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--native", type=Path, required=True)
    args, results = parser.parse_args(), {}
    for name, (tool, keys, _) in USES.items():
        start = time.monotonic()
        told = {"native": str(args.native)} if tool == "directions" else {}
        found = latents(args.run, tool, keys | told, out=args.run / "samples" / f"latents_{name_of(name)}")
        results[name] = {k: round(float(v), 4) for k, v in found.scalars.items()}
        results[name]["seconds"] = round(time.monotonic() - start, 1)
        for images in found.images.values():
            save_grid(OUT / f"latents_{name_of(name)}.png", images, found.columns, found.captions)
    (OUT / "latents.json").write_text(json.dumps(results, indent=1) + "\n")
    insert(OUT / "README.md", "<!-- made by latents_mnist.py -->", table(results))


if __name__ == "__main__":
    main()
