"""EDM2-S (Karras et al. 2024, arXiv:2312.02696) on ImageNet at 64 x 64. Paper: FID 1.58 with 63 evaluations, no guidance.

python -m jaxgen.main --config=configs/edm2_imagenet64.py --workdir=runs/edm2_imagenet64

Configuration G: the magnitude-preserving net with forced weight normalisation, learned uncertainty, the inverse square root
schedule, 2^30 images in batches of 2,048. The length of the average is chosen afterwards (--mode=sweep). Sizes M, L and XL:
method.net.width=256 (lr 0.009), 320 (0.008), 384 (0.007). Hardware of the paper: 32 A100.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=524_288, log_every=100, save_every=4_096, snapshot_every=4_096))
    c.data = dict(name="tfds", dataset="imagenet_resized/64x64", batch=2048, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="edm2_unet", width=192, dtype="bfloat16",
            optimizer=dict(
                name="adam", lr=0.01, b2=0.99, schedule="inverse_sqrt", hold=35_000, warmup=4_883, unit=".*kernel"
            ),
            ema=(dict(name="power", std=0.10), dict(name="power", std=0.05)),
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        predict=dict(name="edm", sigma_data=0.5),
        weight=dict(name="edm", sigma_data=0.5),
        times=dict(name="log_normal", mean=-0.8, std=1.6),
        objective="uncertainty",
        solver=dict(name="heun", steps=32),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1, 2), "method.net.attend": (), "method.net.blocks": 1,
    "method.net.head_dim": 16, "method.net.dtype": "float32", "method.net.optimizer.warmup": 0, "method.solver.steps": 3,
}  # fmt: skip
