"""A frozen encoder of text between the conditions of a run and its net: tokens in, states, text_mask and what is pooled out.

Examples lose their text, are asked for by it and are guided against it as tokens; so null is what the encoder makes of the empty
text (Stable Diffusion), or nothing at all: zeros, of which no token is real (Saharia et al. 2022, arXiv:2205.11487, section 2).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond
from jaxgen.core.lender import Frozen, Lender, Loan, Role
from jaxgen.core.method import EncodesText
from jaxgen.core.spec import Spec, encoded
from jaxgen.core.state import Array
from jaxgen.errors import UserError

NAME = "text"  # of what is lent, in the state
ROLE = Role(EncodesText, "encoder of text", target=False)
KEY = "config.method.text_encoder"


@dataclass(frozen=True)
class FrozenText:
    """The encoder that a lender lends."""

    run: Lender
    null: Literal["empty", "zeros"] = "empty"  # the empty text, or nothing
    masked: bool = True  # whether pads are hidden from the net (Imagen, PixArt) or are looked at (SD, Flux)
    pooled: bool = True  # whether the net is told a vector of the whole text, where there is any

    def spec(self, spec: Spec) -> Spec:
        """What the net is told in place of the tokens; a UserError for a run without text, or tokens that the encoder lacks."""
        if not spec.texts:
            raise UserError(
                f"{KEY} reads tokens, and the run is told {spec.conditions or 'nothing'}; set config.data.tokenizer, or {KEY}=None"
            )
        name, field = next(iter(spec.texts.items()))
        self.run.check(f"{KEY}.run", ROLE, spec, self)
        lent = self.run.abstract
        if field.values > lent.model.values:
            raise UserError(
                f"config.data.tokenizer has {field.values} numbers and the encoder of {KEY} a table of {lent.model.values}; "
                "name the tokenizer that belongs to it"
            )
        ids = jax.ShapeDtypeStruct((1, *field.shape), jnp.int32)
        made = jax.eval_shape(lambda w, ids: lent.model.encode_text(w, ids), lent.weights, ids)
        whole = made["pooled"].shape[1] if self.pooled and "pooled" in made else 0
        told = encoded(*made["states"].shape[1:], whole).where(lambda key, _: self.masked or key != "text_mask")
        return Spec({**spec.where(lambda key, _: key != name), **told})

    def loans(self) -> dict[str, Loan]:
        """The encoder."""
        return {NAME: Loan(self.run, ROLE, f"{KEY}.run")}

    def kept_in(self, folder: Path) -> "FrozenText":
        """With the encoder's copy in that folder, where there is one."""
        return replace(self, run=self.run.kept_in(folder / NAME))

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], cond: Cond) -> Cond:
        """The conditions as the net is told them."""
        name, field = next(iter(spec.texts.items()))
        ids, lent = cond[name], frozen[NAME]
        made = jax.lax.stop_gradient(lent.model.encode_text(lent.weights, ids))
        left_out = {"pooled": not self.pooled, "text_mask": not self.masked}
        made = {k: v.astype(jnp.float32) for k, v in made.items() if not left_out.get(k)}
        if self.null == "zeros":
            told: Array = (ids != jnp.asarray(field.empty)).any(1)
            made = {k: jnp.where(told.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for k, v in made.items()}
        return {**{k: v for k, v in cond.items() if k != name}, **made}
