"""The arithmetic of a program as it is written: a matrix product of n x k by k x m is 2nkm operations, a convolution
likewise, all else an operation for every number that it makes; loops count as often as they run.
"""

import math
from typing import Any

# jaxgen.nets.convolution's primitives, called with inputs and output -> (output [B, H, W, O], kernel [h, w, C, O])
CONVOLUTIONS = {
    "conv": lambda x, k, y: (y, k),
    "conv_input_grad": lambda y, k, x: (y, k),
    "conv_kernel_grad": lambda x, y, k: (y, k),
}


def operations(jaxpr: Any, others: bool = True) -> float:
    """Of a program, those within it included. others=False: of its products and convolutions alone."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = [getattr(p, "jaxpr", p) for q in eqn.params.values() for p in (q if isinstance(q, tuple) else (q,))]
        inner = [operations(p, others) for p in inner if hasattr(p, "eqns")]
        made = sum(math.prod(v.aval.shape) for v in eqn.outvars)
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += 2 * made * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif name in CONVOLUTIONS:
            y, k = (v.aval.shape for v in CONVOLUTIONS[name](*eqn.invars, *eqn.outvars))
            total += 2 * math.prod(y[:-1]) * math.prod(k)
        elif inner:
            total += max(inner) if name == "cond" else sum(inner) * eqn.params.get("length", 1)
        elif others:
            total += made
    return total
