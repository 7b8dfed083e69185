"""Consistency distillation (Song et al. 2023, arXiv:2303.01469, algorithm 2): a diffusion model's flow, learned as one step.

As consistency training (jaxgen.methods.consistency), but the lower of two neighbouring points is one step of the teacher's
probability flow dx/dsigma = (x - D(x, sigma)) / sigma, by Heun's method, from the upper one x = x_0 + sigma_(n+1) z:

    x_n = x + (sigma_n - sigma_(n+1)) (slope(x, sigma_(n+1)) + slope(x_Euler, sigma_n)) / 2                          (6)
"""

from dataclasses import dataclass, field

from jaxgen.core.conditions import Cond
from jaxgen.core.lender import Frozen, Lender, Loan, Role
from jaxgen.core.method import start_from
from jaxgen.core.state import Array, TrainState, Weights
from jaxgen.diffusion.process import spread
from jaxgen.diffusion.solvers.table import x0_of
from jaxgen.diffusion.times import Times, Uniform
from jaxgen.methods.consistency import Consistency, Curriculum, Fixed
from jaxgen.methods.diffusion import Diffusion


@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(Consistency):
    """The paper's levels (18, drawn evenly) without LPIPS. A teacher that is guided teaches what its guide makes of it."""

    teacher: Lender  # a diffusion run of any process
    times: Times = field(default_factory=Uniform)
    curriculum: Curriculum = field(default_factory=Fixed)
    gap_weight: bool = False
    copy: bool = True  # start from the teacher's weights; both have the same net then

    def loans(self) -> dict[str, Loan]:
        """The teacher, at every step."""
        return {"teacher": Loan(self.teacher, Role(Diffusion, "diffusion model", conditions=True))}

    def inherits(self) -> dict[str, Loan]:
        """The teacher, once more: its weights are the first ones."""
        return self.loans() if self.copy else {}

    def inherit(self, state: TrainState, lent: dict[str, Frozen]) -> TrainState:
        """The net starts as the teacher's, and so does the average of it."""
        if not self.copy:
            return state
        net = start_from(state.nets["net"], lent["teacher"].weights.nets["net"], "teacher")
        return self.with_average(state.replace(nets={"net": net}))

    def below(self, x0: Array, z: Array, high: Array, low: Array, cond: Cond, w: Weights) -> Array:
        """One Heun step from x_0 + high z at sigma `high` [B] to `low` [B]."""
        teacher = w.frozen["teacher"]
        denoise, process = teacher.model.denoiser(teacher.weights, cond), teacher.model.process

        def slope(x: Array, sigma: Array) -> Array:
            t = process.when(sigma)  # in the teacher's own terms: sigma is its sigma / alpha
            return (x - x0_of(denoise(spread(process.alpha(t), x) * x, t))) / spread(sigma, x)

        step = spread(low - high, x0)
        x = x0 + spread(high, x0) * z
        first = slope(x, high)
        return x + step / 2 * (first + slope(x + step * first, low))
