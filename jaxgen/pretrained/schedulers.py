"""diffusers' `scheduler_config.json` -> the keys of a config's method: process, predict, solver and its grid.

Their schedulers are one object each; here the same is said in four parts. What is not known is refused, never left out.
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
    if c["use_karras_sigmas"] and not name.startswith("Euler"):
        # the net is told whole steps, between which the levels may lie
        process["whole_clock"] = name.startswith("UniPC") or c["beta_schedule"] != "squaredcos_cap_v2"
    process |= dict(beta_min=c["beta_start"] * total / 1000, beta_max=c["beta_end"] * total / 1000)
    solver = _solver(name, c) | dict(steps=steps, grid=_grid(name, c))
    return dict(process=process, predict=dict(name=PREDICTIONS[c["prediction_type"]]), solver=solver)


# ----------------------------------------------------------------------------------------------------------------------
# Back


def _spaced(name: str, grid: Mapping[str, Any]) -> dict[str, Any]:
    """timestep_spacing and its kin of a grid."""
    found: dict[str, Any] = {}
    if name.startswith(("DDIM", "PNDM")):
        found["set_alpha_to_one"] = grid.get("stop") != "first"
    elif grid.get("stop") == "first":
        found["final_sigmas_type"] = "sigma_min"
    if grid["name"] == "karras":
        return found | dict(use_karras_sigmas=True, timestep_spacing="linspace")
    offset = {"steps_offset": grid["offset"]} if grid["name"] == "leading" else {}
    return found | offset | dict(timestep_spacing=grid["name"])


def _stepped(solver: Mapping[str, Any]) -> dict[str, Any]:
    """The class of a solver's rule, and its options."""
    name, order = solver["name"], solver.get("order")
    if name == "ddim":
        return dict(_class_name="DDIMScheduler", clip_sample=solver["clip"])
    if name == "ancestral":
        variance = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
        return dict(_class_name="DDPMScheduler", clip_sample=solver["clip"], variance_type=variance[solver["variance"]])
    if name == "pndm":
        return dict(_class_name="PNDMScheduler", skip_prk_steps=True)
    if name == "unipc":
        return dict(_class_name="UniPCMultistepScheduler", solver_order=order, solver_type=solver["kind"])
    if name in ("dpm", "dpm_plus"):
        kind = "dpmsolver" if name == "dpm" else "sde-dpmsolver++" if solver.get("eta") else "dpmsolver++"
        told = dict(solver_order=order, solver_type=solver["bend"], algorithm_type=kind)
        return dict(_class_name="DPMSolverMultistepScheduler", **told)
    return dict(
        _class_name={"euler": "EulerDiscreteScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler"}[name]
    )


def _told_by(method: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler_config.json that these keys most likely are."""
    process, solver = method["process"], method["solver"]
    if process["name"] == "linear":
        shift = solver["grid"].get("shift", 1.0)
        told = dict(num_train_timesteps=1000, shift=shift, use_dynamic_shifting=False)
        return dict(_class_name="FlowMatchEulerDiscreteScheduler", **told)
    total = process["steps"]
    betas = {ours: theirs for theirs, ours in BETAS.items()}
    config = dict(
        num_train_timesteps=total,
        beta_schedule=betas[process["schedule"]],
        prediction_type={ours: theirs for theirs, ours in PREDICTIONS.items()}[method["predict"]["name"]],
        beta_start=process["beta_min"] * 1000 / total,
        beta_end=process["beta_max"] * 1000 / total,
    )
    config |= {"rescale_betas_zero_snr": True} if process["zero_snr"] else {}
    found = _stepped(solver)
    return config | found | _spaced(found["_class_name"], solver["grid"])


def scheduler_config(method: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `method_keys`: the keys of a config's method, every default spelled out -> scheduler_config.json.

    A solver that diffusers has not gives way to DDIM on a chain, to Euler on a flow. Raises UserError for a process or a prediction
    that it has not.
    """
    process, predict = method["process"], method["predict"]
    if (process["name"], predict["name"]) not in {
        ("vp", "eps"),
        ("vp", "v"),
        ("vp", "x0"),
        ("linear", "flow"),
        ("linear", "velocity"),
    }:
        raise UserError(f"diffusers has no scheduler for process {process['name']} with predict {predict['name']}")
    usual = dict(name="ddim", clip=False, grid=dict(name="leading", offset=0, stop="data"))
    for solver in (method["solver"], usual):
        try:
            config = _told_by({**method, "solver": solver})
            keys = method_keys(config, method["solver"].get("steps", 50))
        except (KeyError, UserError):
            continue
        parts = ("process", "predict", "solver") if solver is not usual else ("process",)
        told = [same(keys[part], {**method, "solver": solver}[part]) for part in parts]
        if all(told) or process["name"] == "linear":
            return config
    raise UserError(
        f"diffusers has no scheduler for process {process['name']} as this one is; keep the run in jaxgen's own format"
    )


def same(said: Any, whole: Any) -> bool:
    """Whether all that is said is in a config with every default spelled out."""
    if isinstance(said, Mapping):
        return isinstance(whole, Mapping) and all(same(value, whole.get(key)) for key, value in said.items())
    return math.isclose(said, whole) if isinstance(said, float) and isinstance(whole, float | int) else said == whole
