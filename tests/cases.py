"""The configs that the laws run over."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
# A few methods and mechanisms: the laws hold for these in the quick suite, for all in the full one. Diffusion compiles for
# too long, and is what the tests of the command line train.
CHOSEN = ("vae_digits", "dcgan_digits", "wgan_gp_digits", "vqvae_digits")
