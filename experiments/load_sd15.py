"""Peak memory of loading the UNet of Stable Diffusion 1.5 to bfloat16, from a sparse file with its names and shapes.

    python experiments/load_sd15.py --names=sd15.unet.json --config=DIR_OF_ITS_CONFIG_JSON

The file is 3.4 GB of zeros in float32. The bar is the size in bfloat16 and 300 MB. Writes experiments/text/loading.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

OUT = Path(__file__).parent / "text/loading.json"


def sparse(path: Path, shapes: dict[str, list[int]]) -> None:
    """A float32 .safetensors of zeros that takes no room on the disk."""
    told, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        told[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(told).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + at)


def load(folder: str) -> None:
    """In a process of its own: every tensor straight to where it belongs, and how much memory it took."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxgen.core import parallel
    from jaxgen.pretrained import unet_condition
    from jaxgen.pretrained.layout import onto, placing

    mesh = parallel.make_mesh({"data": -1})
    rules = ((".*", "fsdp:16384"),)

    def put(path: tuple[str, ...], value: np.ndarray) -> jax.Array:
        like = {"x": jax.ShapeDtypeStruct(value.shape, "bfloat16")}
        place = (
            parallel.shardings(mesh, like, rules)["x"]
            if jax.device_count() > 1
            else NamedSharding(mesh, PartitionSpec())
        )
        return onto(place, value, "bfloat16")

    with placing(put):
        _, variables = unet_condition.load(folder)
    jax.block_until_ready(variables)
    bytes_ = sum(x.nbytes for x in jax.tree.leaves(variables))
    print(json.dumps({"bf16_mb": bytes_ / 1e6, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


def main() -> None:
    """Make the file, load it in a process of its own, with one device and with eight."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--names", type=Path)
    options.add_argument("--config", type=Path)
    options.add_argument("--load", default="")
    args = options.parse_args()
    if args.load:
        load(args.load)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text((args.config / "config.json").read_text())
        sparse(Path(folder) / "diffusion_pytorch_model.safetensors", json.loads(args.names.read_text())["shapes"])
        for devices in (1, 8):
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
            env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            said = subprocess.run(
                [sys.executable, __file__, f"--load={folder}"], env=env, capture_output=True, text=True, check=True
            )
            figures = json.loads(said.stdout.splitlines()[-1])
            found[f"{devices} devices"] = figures | {"over_mb": figures["peak_mb"] - figures["bf16_mb"]}
            print(devices, found[f"{devices} devices"], flush=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
