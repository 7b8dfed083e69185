"""DDNM: the denoised picture keeps its null space, and its range space is what was seen (Wang et al. 2022, arXiv:2212.00490)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxgen.core.linear import Linear
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.restorers.restorer import Array, Restored, Restorer, instead
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, x0_of


@dataclass(frozen=True)
class Ddnm(Restorer):
    """A^+ y + (I - A^+ A) D(x_t, t) in place of D (their eq. 13); of what was seen without noise."""

    needs: ClassVar[tuple[str, ...]] = ("seen", "pixels", "clean")

    def given(self, denoise: Denoiser, process: Process, seen: Linear) -> Restored:
        """No slope of D is taken, so that this costs as much as D."""

        def call(x: Array, t: Array) -> Array | Estimate:
            out = denoise(x, t)
            x0 = x0_of(out)
            return instead(out, x0 + seen.pseudo_inverse(seen.y - seen.apply(x0)))

        return call
