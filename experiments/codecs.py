"""What a published autoencoder gives back of whole photographs and of emoji: PSNR of 8-bit pixels, picture by picture.

    python experiments/codecs.py --weights=DIR_OF_TAEF2 --data=DIR

DIR has `kodak/*.png`, `coco_cc/*/*.jpg` and `emoji/noto72/*.png` (72 px on white, made 64). Writes codecs.json and a sheet of
pictures to experiments/text/, and the table of its README.md.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
from gans import insert

from jaxgen.data.decode import photo
from jaxgen.images import save_png, to_uint8
from jaxgen.metrics.pixel import psnr
from jaxgen.pretrained.codecs import load
from jaxgen.runs import setup

OUT = Path(__file__).parent / "text"
SETS = {  # name -> (files, side of a picture (0: as it is), least mean in dB)
    "Kodak": ("kodak/*.png", 0, 28.0),
    "COCO": ("coco_cc/*/*.jpg", 0, 28.0),
    "emoji 64": ("emoji/noto72/*.png", 64, 27.0),
}


def main() -> None:
    """Measure what is not in codecs.json."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--weights", required=True)
    options.add_argument("--data", required=True, type=Path)
    args = options.parse_args()
    setup.configure("")
    codec = load(args.weights)
    there = jax.jit(lambda x: codec.module.apply(codec.variables, x))
    record = OUT / "codecs.json"
    found = json.loads(record.read_text()) if record.is_file() else {}
    files = sorted(args.data.glob(SETS["emoji 64"][0]))
    x = np.stack([photo(str(file), 3, 64, "stretch") for file in files[:: len(files) // 12][:12]])
    y = to_uint8(there(x.astype(np.float32) / 127.5 - 1.0))
    save_png(OUT / "emoji_taef2.png", np.concatenate([np.concatenate([*v], 1) for v in (x, y)]))
    for name, (pattern, side, least) in SETS.items():
        if name in found:
            continue
        files = sorted(args.data.glob(pattern))
        groups: dict[tuple, list[tuple[str, np.ndarray]]] = {}
        for file in files:
            x = photo(str(file), 3, side, "stretch" if side else "none")
            groups.setdefault(x.shape, []).append((file.name, x))
        decibels: dict[str, float] = {}
        for (height, width, _), group in groups.items():
            most = max(1, 64 * 64 * 64 // (height * width))
            for start in range(0, len(group), most):
                part = group[start : start + most]
                x = np.stack([x for _, x in part])
                filled = np.concatenate(
                    [x, x[np.arange(min(most, len(group)) - len(x)) % len(x)]]
                )  # one program a size
                y = to_uint8(there(filled.astype(np.float32) / 127.5 - 1.0))[: len(x), :height, :width]
                decibels |= {k: float(v) for (k, _), v in zip(part, psnr(y, x), strict=True)}
        values = np.array(list(decibels.values()))
        found[name] = dict(
            pictures=len(values), mean=values.mean(), least=values.min(), most=values.max(), bar=least,
            met=bool(values.mean() >= least), worst=min(decibels, key=decibels.get), each=decibels if not side else {},
        )  # fmt: skip
        print(name, {k: v for k, v in found[name].items() if k != "each"}, flush=True)
        record.write_text(json.dumps(found, indent=1) + "\n")
    head = "| pictures | number | mean PSNR | least | most | bar of the mean | met |\n|---|---|---|---|---|---|---|"
    rows = [
        f"| {name} | {f['pictures']:,} | {f['mean']:.2f} dB | {f['least']:.2f} ({f['worst']}) | {f['most']:.2f} | {f['bar']:g} | "
        f"{'yes' if f['met'] else 'no'} |"
        for name, f in found.items()
    ]
    insert(OUT / "README.md", "<!-- made by codecs.py -->", "\n".join([head, *rows]))


if __name__ == "__main__":
    main()
