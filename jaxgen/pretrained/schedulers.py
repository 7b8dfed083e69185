"""diffusers' `scheduler_config.json` -> the keys of a config's method: process, predict, solver and its grid.

Their schedulers are one object each; here the same is said in four parts. What is not known is refused, never left out.
One thing the parts do not say: between two steps of the chain (Karras's levels) diffusers' DPM-Solver tells the net
the nearest whole step, and ours the true one. Their very pixels need the rounding (tests/golden/test_pipelines.py).
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxgen.errors import UserError
from jaxgen.pretrained.diffusers import options

BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# diffusers' defaults: a config written by an older version may lack keys
DEFAULTS = dict(
    num_train_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    prediction_type="epsilon",
    steps_offset=0,
    set_alpha_to_one=True,
    rescale_betas_zero_snr=False,
    use_karras_sigmas=False,
    solver_order=2,
    solver_type="midpoint",
    algorithm_type="dpmsolver++",
    final_sigmas_type="zero",
    variance_type="fixed_small",
    shift=1.0,
    clip_sample=False,
    timestep_spacing="linspace",
    # of thresholding, of flow sigmas and of dynamic shifting, which are refused
    **dict.fromkeys(("dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type")),
    **dict.fromkeys(("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")),
)
# class -> defaults of its own
CLASSES: dict[str, dict[str, Any]] = {
    "DDIMScheduler": dict(timestep_spacing="leading", clip_sample=True),
    "DDPMScheduler": dict(timestep_spacing="leading", clip_sample=True),
    "PNDMScheduler": dict(timestep_spacing="leading", set_alpha_to_one=False, skip_prk_steps=False),
    "EulerDiscreteScheduler": dict(timestep_spacing="linspace"),
    "EulerAncestralDiscreteScheduler": dict(timestep_spacing="linspace"),
    "DPMSolverMultistepScheduler": dict(timestep_spacing="linspace"),
    "UniPCMultistepScheduler": dict(timestep_spacing="linspace", solver_type="bh2"),
    "FlowMatchEulerDiscreteScheduler": {},
}
_FIXED: dict[str, Any] = dict(  # what theirs may say, and ours can do
    beta_schedule=BETAS,
    prediction_type=PREDICTIONS,
    trained_betas=(None,),
    thresholding=(None, False),
    use_exponential_sigmas=(None, False),
    use_beta_sigmas=(None, False),
    use_lu_lambdas=(None, False),
    use_flow_sigmas=(None, False),
    use_dynamic_shifting=(None, False),
    euler_at_final=(None, False),
    lower_order_final=(None, True),
    interpolation_type=(None, "linear"),
    skip_prk_steps=(None, True),
    clip_sample_range=(None, 1, 1.0),
    predict_x0=(None, True),
    disable_corrector=(None, []),
    solver_p=(None,),
    timestep_type=(None, "discrete"),
    stochastic_sampling=(None, False),
    invert_sigmas=(None, False),
    shift_terminal=(None,),
    lambda_min_clipped=(None, -math.inf, "-Infinity"),
    sigma_min=(None,),
    sigma_max=(None,),
    variance_type=(None, "fixed_small", "fixed_large", "learned_range"),
    algorithm_type=(None, "dpmsolver", "dpmsolver++", "sde-dpmsolver++"),
)


def _grid(name: str, c: Mapping[str, Any]) -> dict[str, Any]:
    """The times that it visits."""
    spacing = c["timestep_spacing"]
    first = (name.startswith(("DDIM", "PNDM")) and not c["set_alpha_to_one"]) or c["final_sigmas_type"] == "sigma_min"
    stop = "first" if first else "data"
    if c["use_karras_sigmas"]:
        if spacing == "leading" or first:
            raise UserError(
                f"diffusers {name}: use_karras_sigmas is read with linspace, down to zero; change its config"
            )
        return dict(name="karras")
    if spacing == "leading":
        return dict(name="leading", offset=c["steps_offset"], stop=stop)
    if spacing == "trailing":
        return dict(name="trailing", stop=stop)
    if spacing == "linspace":
        inner = name.startswith("Euler")
        return dict(name="linspace", whole=not inner, spare=name.startswith(("DPM", "UniPC")), stop=stop)
    raise UserError(f"diffusers {name}: timestep_spacing={spacing!r} is not known; known: leading, linspace, trailing")


def _solver(name: str, c: Mapping[str, Any]) -> dict[str, Any]:
    """The rule of a step."""
    if name.startswith("DDIM"):
        return dict(name="ddim", clip=c["clip_sample"], rederive=False)
    if name.startswith("DDPM"):
        variance = {"fixed_small": "small", "fixed_large": "large", "learned_range": "learned"}
        return dict(name="ancestral", variance=variance[c["variance_type"]], clip=c["clip_sample"])
    if name.startswith("PNDM"):
        return dict(name="pndm")
    if name.startswith("EulerA"):
        return dict(name="euler_ancestral")
    if name.startswith("Euler"):
        return dict(name="euler")
    if name.startswith("UniPC"):
        return dict(name="unipc", order=c["solver_order"], kind=c["solver_type"])
    if c["algorithm_type"] == "dpmsolver":
        return dict(name="dpm", order=c["solver_order"], bend=c["solver_type"])
    eta = float("sde" in c["algorithm_type"])
    return dict(name="dpm_plus", order=c["solver_order"], bend=c["solver_type"], eta=eta)


def method_keys(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """scheduler_config.json -> `process`, `predict` and `solver` of a config's method, with that many steps.

    Raises UserError for a class or an option that has no counterpart here.
    """
    name = config.get("_class_name", "")
    if name not in CLASSES:
        raise UserError(
            f"diffusers scheduler {name or 'without _class_name'} is not known; known: {', '.join(CLASSES)}"
        )
    c = options(f"diffusers {name}", config, {**DEFAULTS, **CLASSES[name]}, _FIXED)
    if name.startswith("FlowMatch"):
        if c["use_karras_sigmas"]:
            raise UserError(f"diffusers {name}: use_karras_sigmas=True is not supported; change its config")
        low = c["shift"] / c["num_train_timesteps"]  # they shift the smallest time before, and with all the others
        low /= 1 + (c["shift"] - 1) / c["num_train_timesteps"]
        grid = dict(name="flow", shift=c["shift"], first=low)
        solver = dict(name="euler", space="time", steps=steps, grid=grid)
        return dict(process=dict(name="linear"), predict=dict(name="flow"), solver=solver)
    total = c["num_train_timesteps"]
    process = dict(name="vp", schedule=BETAS[c["beta_schedule"]], steps=total, zero_snr=c["rescale_betas_zero_snr"])
    process |= dict(beta_min=c["beta_start"] * total / 1000, beta_max=c["beta_end"] * total / 1000)
    solver = _solver(name, c) | dict(steps=steps, grid=_grid(name, c))
    return dict(process=process, predict=dict(name=PREDICTIONS[c["prediction_type"]]), solver=solver)
