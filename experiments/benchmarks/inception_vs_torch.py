"""The Inception-v3 of FID: jaxgen's, and pytorch-fid's graph in PyTorch. A step is an image.

A case of `suite.py`. Both start from the same random weights, see the same images of 299x299 pixels, and must give the
same features. `torch_contiguous` is what pytorch-fid runs; `torch` is the same with channels last. Products are float32.
"""

from dataclasses import dataclass

import numpy as np
from turns import Contender, Contenders


@dataclass(frozen=True)
class Case:
    """So many images a call."""

    batch: int
    about: str = "Inception-v3 of FID, 299x299"


CASES = {"inception": Case(16)}


def random_weights(seed: int) -> dict[str, np.ndarray]:
    """A state dict of pytorch-fid's graph with random weights that keep the scale."""
    import torch
    from torch_inception import TorchInception

    torch.manual_seed(seed)
    net = TorchInception()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, mean in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0)):
                torch.nn.init.normal_(tensor, mean, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return {name: value.numpy() for name, value in net.state_dict().items()}


def centred(features: np.ndarray) -> dict[str, np.ndarray]:
    """What is compared: their means are the larger part, and no news."""
    return {"features": features - features.mean(0)}


def ours(case: Case) -> tuple[Contenders, dict, dict, dict]:
    """Our contender; the weights; the images; the features [B, 2048]."""
    import jax

    from jaxgen.nets.inception import InceptionV3
    from jaxgen.pretrained.features import inception

    weights = random_weights(0)
    images = np.random.default_rng(0).uniform(-1, 1, (case.batch, 299, 299, 3)).astype(np.float32)
    variables, x = jax.device_put((inception(weights), images))
    program = jax.jit(lambda variables, x: InceptionV3().apply(variables, x).pool3).lower(variables, x).compile()
    temporaries = program.memory_analysis().temp_size_in_bytes
    contender = Contender(lambda: program(variables, x).block_until_ready(), case.batch, temporaries)
    return {"features": {"jaxgen": contender}}, weights, {"images": images}, centred(np.asarray(program(variables, x)))


def theirs(case: Case, device: str, weights: dict, given: dict, compiled: bool = False) -> tuple[Contenders, dict]:
    """PyTorch's contenders, and the features."""
    import torch
    from torch_inception import TorchInception

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.tensor(given["images"]).permute(0, 3, 1, 2).to(device)
    kinds = {"torch_contiguous": torch.contiguous_format, "torch": torch.channels_last}
    found: dict[str, Contender] = {}
    for name, layout in {"torch_compile": torch.channels_last}.items() if compiled else kinds.items():
        net = TorchInception().eval().to(device=device, memory_format=layout)
        net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
        net, images = torch.compile(net) if compiled else net, x.contiguous(memory_format=layout)

        def call(net=net, images=images):
            with torch.inference_mode():
                y = net(images)
            if device == "cuda":
                torch.cuda.synchronize()
            return y

        found[name] = Contender(call, case.batch)
    return {"features": found}, centred(call().cpu().numpy())
