"""Models of other projects in and out: what a file or folder holds, and the same in another form.

python -m jaxgen.pretrained inspect SRC                      what it is: parts, parameters, types, what it becomes here
python -m jaxgen.pretrained convert SRC DST --to=run         a run directory: sample, evaluate, train on as with any run
python -m jaxgen.pretrained convert SRC DST --to=diffusers   a folder that DiffusionPipeline.from_pretrained opens
python -m jaxgen.pretrained convert SRC DST --to=ldm         a single file of Stable Diffusion or Flux
python -m jaxgen.pretrained convert SRC DST --to=peft        a LoRA's file as diffusers reads it (or --to=kohya)
python -m jaxgen.pretrained convert SRC DST --to=published   the file of a net that enlarges or mends pictures, in published names

SRC is a folder of a diffusers pipeline (with model_index.json) or of one part of it (unet, transformer, vae, ...), a single file
of Stable Diffusion or Flux (.safetensors, .ckpt), the file of a net that enlarges or mends pictures (RRDB, DnCNN, ...: .pth), a run
directory (imported, or trained here), or a LoRA: its file with --base=SRC, or a run that has trained one. DST must not be there.
Nothing in a file is run, and PyTorch is not needed. Numbers stay as they are stored, but for --dtype. docs/weights.md tells more.

  python -m jaxgen.pretrained convert stable-diffusion-v1-5 runs/sd15 --to=run
  python -m jaxgen.main --workdir=runs/sd15 --mode=sample --num=4 --prompt="a lighthouse at night"
  python -m jaxgen.pretrained convert model.ckpt runs/own --to=run --tokenizer=stable-diffusion-v1-5/tokenizer
  python -m jaxgen.pretrained convert runs/own own-for-diffusers --to=diffusers --dtype=fp16
"""

import argparse
import sys

from jaxgen.core.given import expand
from jaxgen.errors import UserError, command

FORMS = ("run", "diffusers", "ldm", "kohya", "peft", "published")
FILES = ("heads", "text_heads", "groups", "prediction")  # options of single files


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m jaxgen.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("verb", choices=("inspect", "convert"), help="say what it is, or write it in another form")
    p.add_argument("src", type=expand, metavar="SRC", help="a folder or file, see above")
    p.add_argument("dst", type=expand, metavar="DST", nargs="?", default="", help="convert: what to write")
    p.add_argument("--to", default="", choices=("", *FORMS), help="convert: the form")
    p.add_argument("--dtype", default="", choices=("", "fp32", "bf16", "fp16"),
                   help="convert: of the numbers in files (default: as stored); of a run, what its nets compute in")  # fmt: skip
    p.add_argument("--variant", default="", metavar="NAME", help="of a folder's weights, such as fp16 or non_ema")
    p.add_argument(
        "--weights", default="ema", metavar="NAME", help="of a run: ema (default), raw, or an average's label"
    )
    p.add_argument("--step", type=int, default=-1, help="of a run: the checkpoint (default: the newest)")
    p.add_argument("--size", type=int, default=0, metavar="N", help="to run: of its pictures (default: the net's own)")
    p.add_argument("--base", type=expand, default="", metavar="SRC", help="of a LoRA's file: the model that it is for")
    s = p.add_argument_group("single files, which hold no config")
    s.add_argument("--tokenizer", type=expand, action="append", default=[], metavar="DIR",
                   help="the folder of CLIP's tokenizer (merges.txt); twice where the encoders have different ones")  # fmt: skip
    s.add_argument("--prediction", default="", choices=("", "epsilon", "v_prediction"),
                   help="default: v of Stable Diffusion 2 (its 512 base predicts epsilon), else epsilon")  # fmt: skip
    s.add_argument("--heads", type=int, default=0, help="of the UNet's attention (default: as published)")
    s.add_argument("--text_heads", type=int, default=0, help="of CLIP's attention (default: 64 channels each)")
    s.add_argument("--groups", type=int, default=32, help="of the norms (default 32)")
    p.add_argument("--traceback", action="store_true", help="show where an error came from")
    return p


def run(argv: list[str]) -> None:
    """Parse and act."""
    args = parser().parse_args(argv)
    if args.verb == "convert" and not (args.dst and args.to):
        raise UserError(f"convert needs what to write and in which form: convert SRC DST --to={'|'.join(FORMS)}")
    if args.verb == "inspect" and (args.dst or args.to):
        raise UserError("inspect writes nothing: leave out DST and --to, or say convert")
    print(f"reading {args.src}", file=sys.stderr, flush=True)
    from jaxgen.runs import setup as backend

    backend.configure()  # before JAX starts
    from jaxgen import convert

    told = {k: getattr(args, k) for k in (*FILES, "variant", "base")} | {"tokenizers": args.tokenizer}
    if args.verb == "inspect":
        print("\n".join(convert.inspect(args.src, **told)))
        return
    told |= {k: getattr(args, k) for k in ("to", "dtype", "weights", "step", "size")}
    made = convert.convert(args.src, args.dst, **told)
    asked = " --prompt=TEXT" if (made / "frozen/text").is_dir() else ""
    then = f"; python -m jaxgen.main --workdir={made} --mode=sample{asked}" if args.to == "run" else ""
    print(f"written: {made}{then}", file=sys.stderr)


def main() -> None:
    """The command."""
    command(run, lambda: parser().print_help())


if __name__ == "__main__":
    main()
