"""All is said in setup.cfg, but this: the configs, a folder beside the package, go into it where jaxgen is installed."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """An editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "jaxgen", "configs")
            self.mkpath(str(folder))
            for file in Path("configs").glob("*.py"):
                self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithConfigs})
