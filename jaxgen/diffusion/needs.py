"""What the parts of a method need of each other: they may say it in `needs` and `gives`, and what is needed must be given."""

from dataclasses import fields
from typing import Any, NamedTuple

from jaxgen.errors import UserError


class Need(NamedTuple):
    """One thing that a part may need, and how a run gets it."""

    what: str
    cure: str


NEEDS = {
    # of the process
    "chain": Need("a chain of training steps", "set method.process.name=vp"),
    "sigma": Need("EDM's levels of noise", "set method.process.name=edm, method.process.power=1"),
    "straight": Need("straight paths", "set method.process.name=linear, in a teacher's run too"),
    "interpolant": Need("an interpolant of data and noise", "set method.process.name=linear"),
    "signal": Need("some signal to be left at t=1", "set method.predict=v (or x0, flow, edm)"),
    # of the task that a restorer undoes
    "seen": Need("a task that is a linear map of the picture", "set tasks.hide.shape=box"),
    "clean": Need("pictures that are told without noise", "set method.restorer.name=pigdm"),
    "pixels": Need("a diffusion model of pixels", "set method.restorer.name=none"),
    "latent": Need("a method that makes pictures of latents (a GAN, a VAE)", "set method.restorer.name=pigdm"),
    # of the prediction: from eps or the score no image follows where no signal is left
    "start": Need("a prediction that gives an image at t=1", "set method.predict=v (or x0), in a teacher's run too"),
    # of the times
    "memoryless": Need("times drawn without a memory of losses", "set method.times.name=uniform"),
    "uniform": Need("evenly drawn times", "set method.times.name=uniform"),
    # of the objective
    "variance": Need("a learned variance", "set method.objective.name=hybrid"),
    "fixed": Need("a variance that is not learned", "set method.objective.name=simple"),
    # of the net, the data and how they are used
    "uncertainty": Need("a net that estimates its own uncertainty", "set method.net.name=edm2_unet"),
    "label": Need("labels to ask for", "set data.labels=True"),
    "null": Need(
        "a conditional run that was trained without its conditions too",
        "set data.labels=True, method.condition_dropout=0.1 and method.net.null_label=True",
    ),
}


def refuse_unmet(method: Any) -> None:
    """A UserError where a method or a field of it needs what neither the method nor a field gives."""
    parts = {"method": method, **{f"method.{f.name}": getattr(method, f.name) for f in fields(method)}}
    given = {what for part in parts.values() for what in getattr(part, "gives", ())}
    for key, part in parts.items():
        for need in (NEEDS[what] for what in getattr(part, "needs", ()) if what not in given):
            cure = _null(method) if need is NEEDS["null"] else need.cure
            other = "" if key in cure else f", or {key}=none" if key == "method.guide" else f", or choose another {key}"
            raise UserError(f"{key} ({type(part).__name__}) needs {need.what}; {cure}{other}")


def _null(method: Any) -> str:
    """What a method still lacks to be trained with and without its conditions."""
    label = "" if method.spec.conditions else "data.labels=True"
    share = "" if method.condition_dropout else "method.condition_dropout=0.1"
    null = "" if getattr(method.net.module, "null_label", True) else "method.net.null_label=True"
    return "set " + ", ".join(change for change in (label, share, null) if change)
