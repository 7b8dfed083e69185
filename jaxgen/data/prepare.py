"""Download and prepare a TFDS set in the form jaxgen reads (ArrayRecord); needs the [prepare] extra.

python -m jaxgen.data.prepare cifar10 --data_dir=DIR
"""

import argparse
import importlib.util
import sys

from jaxgen.core.given import expand
from jaxgen.errors import UserError


def prepare(dataset: str, data_dir: str = "") -> str:
    """Prepares `dataset` below `data_dir` ("" = TFDS's default); returns its folder. Errors: no TensorFlow, no set."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("preparing a TFDS set needs TensorFlow (reading it does not): pip install 'jaxgen[prepare]'")
    import tensorflow_datasets as tfds

    root = expand(data_dir) or None
    try:
        builder = tfds.builder(dataset, data_dir=root, file_format="array_record")
    except (ValueError, AssertionError) as e:
        raise UserError(f"TFDS set {dataset!r} cannot be opened: {str(e).splitlines()[0]}") from e
    builder.download_and_prepare()
    return str(builder.data_dir)


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxgen.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="a name of https://www.tensorflow.org/datasets/catalog, such as cifar10")
    parser.add_argument("--data_dir", default="", help="where to (default: TFDS_DATA_DIR or ~/tensorflow_datasets)")
    args = parser.parse_args(argv)
    try:
        print(f"prepared in {prepare(args.dataset, args.data_dir)}")
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
