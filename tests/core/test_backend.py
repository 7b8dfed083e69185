"""What is set before JAX starts, and that the user's own flags win."""

from jaxgen import backend

FLAG = next(iter(backend.CPU_FLAGS))


def test_flags_are_added_for_the_releases_that_they_help():
    assert backend.cpu_flags("--xla_a=1", (0, 10, 2)) == f"--xla_a=1 {FLAG}"
    assert backend.cpu_flags("", (0, 11, 0)) == backend.cpu_flags("", (0, 10, 1)) == ""
    mine = FLAG.split("=")[0] + "=mine"
    assert backend.cpu_flags(mine, (0, 10, 2)) == mine
