"""What to paste when a config does not do on this machine or with these data: all of it may change between two starts of a run."""

from ml_collections import ConfigDict


def smaller(config: ConfigDict, devices: int, factor: float = 2.0) -> str:
    """What to paste for a step that needs so many times less memory: first what leaves the run what it is."""
    batch, now = config.data.batch, config.method.get("microbatches", 0)
    fitting = [n for n in range(now + 1, batch + 1) if now and batch % (n * devices) == 0]
    parts = next((n for n in fitting if n >= now * factor), max(fitting, default=0))
    nets = {k: v for k, v in config.method.items() if hasattr(v, "optimizer")}
    more = {False: "cheap", "cheap": True}  # what can be computed again beside what is already
    again = [f"--config.method.{k}.remat={more[r]}" for k, net in nets.items() if (r := net.get("remat")) in more]
    less = max(1, int(batch / factor) // devices) * devices
    ways = [f"--config.method.microbatches={parts} (the same training, in {parts} parts)"] if parts else []
    ways += [" ".join(again) + " (the same, slower)"] if again else []
    ways += ["\"--config.sharding=(('.*', 'fsdp'),)\" (the state spread over the devices)"] if devices > 1 else []
    ways += [f"--config.data.batch={less} (a run of its own, in another --workdir)"] if 0 < less < batch else []
    return (
        f"add {', or '.join(ways)}"
        if ways
        else f"a smaller net needs less (--{first_net(config)}.width=32, say, in another --workdir)"
    )


def lighter(config: ConfigDict, devices: int, part: str) -> str:
    """What to paste where most of the memory is of that part: "state", "frozen models", "data", "step"."""
    if part == "step":
        return smaller(config, devices)
    if part == "data":
        return "add --config.data.placement=host (read while it trains)"
    if devices > 1:
        return "add \"--config.sharding=(('.*', 'fsdp'),)\" (spread over the devices)"
    return "a smaller net has less" if part == "state" else "they are as large as the runs that they come from"


def gentler(config: ConfigDict) -> str:
    """What to change so that training does not diverge: each net's learning rate, and clipping where there is none."""
    nets = {f"method.{k}.optimizer": v.optimizer for k, v in config.method.items() if hasattr(v, "optimizer")}
    slower = " ".join(f"--config.{path}.lr={o.lr / 4:.2g}" for path, o in nets.items())
    clipped = " ".join(f"--config.{path}.clip=1.0" for path, o in nets.items() if not o.clip)
    return slower + (f", or with {clipped}" if clipped else "")


def first_net(config: ConfigDict) -> str:
    """The path of the first net that is trained: `config.method.net`."""
    return next(f"config.method.{k}" for k, v in config.method.items() if hasattr(v, "optimizer"))


def slower_disc(config: ConfigDict, base: str = "") -> str:
    """What to change where a discriminator wins; base: "base_" for the coarsest game of LAPGAN."""
    disc, penalty = config.method[f"{base}disc"], config.method.get("disc_penalties")
    more = [f"--config.method.disc_penalties.strength={4 * penalty.strength:g}"] if named(penalty, "r1") else []
    if named(penalty, "none") and disc.get("norm") != "batch":
        more = ["--config.method.disc_penalties=r1"]
    more += [f"--config.method.{base}disc.spectral=True"] if disc.get("spectral") is False else []
    anew = f", or anew in another --workdir with {' or '.join(more)}" if more else ""
    return f"add --config.method.{base}disc.optimizer.lr={disc.optimizer.lr / 2:.2g}{anew}"


def louder(config: ConfigDict) -> str:
    """What to change where generated images are all alike."""
    ways = [f"--config.data.batch={2 * config.data.batch}"]
    if named(config.method.get("disc_penalties"), "none") and config.method.disc.get("norm") != "batch":
        ways += ["--config.method.disc_penalties=r1"]
    return f"anew in another --workdir with {' or '.join(ways)}"


def gentler_game(config: ConfigDict, base: str = "") -> str:
    """What to change where two players swing: a slower generator, and averages to sample from; base: as above."""
    gen = config.method[f"{base}gen"]
    average = (
        f", or anew in another --workdir with --config.method.{base}gen.ema=0.999" if named(gen.ema, "none") else ""
    )
    return f"add --config.method.{base}gen.optimizer.lr={gen.optimizer.lr / 2:.2g}{average}"


def named(part: ConfigDict | tuple | None, name: str) -> bool:
    """Whether a key of a config holds that member, alone."""
    return isinstance(part, ConfigDict) and part.name == name
