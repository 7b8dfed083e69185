"""What to paste when a config does not do on this machine or with these data: all of it may change between two starts of a run."""

from ml_collections import ConfigDict


def smaller(config: ConfigDict, devices: int, factor: float = 2.0) -> str:
    """What to paste for a step that needs so many times less memory: first what leaves the run what it is."""
    batch, now = config.data.batch, config.method.get("microbatches", 0)
    fitting = [n for n in range(now + 1, batch + 1) if now and batch % (n * devices) == 0]
    parts = next((n for n in fitting if n >= now * factor), max(fitting, default=0))
    nets = {k: v for k, v in config.method.items() if hasattr(v, "optimizer")}
    again = [f"--config.method.{k}.remat=True" for k, net in nets.items() if net.get("remat") is False]
    less = max(1, int(batch / factor) // devices) * devices
    ways = [f"--config.method.microbatches={parts} (the same training, in {parts} parts)"] if parts else []
    ways += [" ".join(again) + " (the same, slower)"] if again else []
    ways += ["\"--config.sharding=(('.*', 'fsdp'),)\" (the state spread over the devices)"] if devices > 1 else []
    ways += [f"--config.data.batch={less} (a run of its own, in another --workdir)"] if less < batch else []
    return f"add {', or '.join(ways)}" if ways else "a smaller net needs less (--config.method.net.width=32, say)"


def gentler(config: ConfigDict) -> str:
    """What to change so that training does not diverge: each net's learning rate, and clipping where there is none."""
    nets = {f"method.{k}.optimizer": v.optimizer for k, v in config.method.items() if hasattr(v, "optimizer")}
    slower = " ".join(f"--config.{path}.lr={o.lr / 4:.2g}" for path, o in nets.items())
    clipped = " ".join(f"--config.{path}.clip=1.0" for path, o in nets.items() if not o.clip)
    return slower + (f", or with {clipped}" if clipped else "")


def first_net(config: ConfigDict) -> str:
    """The path of the first net that is trained: `config.method.net`."""
    return next(f"config.method.{k}" for k, v in config.method.items() if hasattr(v, "optimizer"))
