"""Only what pyproject.toml cannot say: the default weights travel inside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCheckpoints(build_py):
    """Copies ``checkpoints/*.safetensors`` beside the modules of the wheel."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "serab_byols" / "checkpoints"
        for source in sorted(Path("checkpoints").glob("*.safetensors")):
            self.mkpath(str(target))
            self.copy_file(str(source), str(target / source.name))


setup(cmdclass={"build_py": BuildWithCheckpoints})
