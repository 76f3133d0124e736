"""Only what pyproject.toml cannot say: default weights travel inside the package, and builds can be repeated.

A wheel or sdist of a commit is the same bytes wherever and whenever it is built: dates are the commit's,
modes and order do not depend on the machine.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

FILE_MODE = 0o644
DATE_VARIABLE = "SOURCE_DATE_EPOCH"
"""Seconds since 1970, the usual name for a build's date: in the environment, and of a file in the sdist."""
WITHOUT_GIT = 1_577_836_800  # 1 January 2020


def source_date() -> int:
    """Of the last commit; in an sdist, of the commit that it was made from; without git, a fixed day."""
    if Path(DATE_VARIABLE).is_file():
        return int(Path(DATE_VARIABLE).read_text(encoding="ascii"))
    if not Path(".git").exists():  # a repository around this folder is another project's
        return WITHOUT_GIT
    try:
        git = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True)
        return int(git.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return WITHOUT_GIT


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


class RepeatableWheel(bdist_wheel):
    """Dates are set by the environment variable; modes would be those of the checkout and the umask."""

    def write_wheelfile(self, *arguments: Any, **options: Any) -> None:
        super().write_wheelfile(*arguments, **options)  # the last file before they are packed
        for path in Path(self.bdist_dir).rglob("*"):
            if path.is_file():
                path.chmod(FILE_MODE)


class RepeatableSdist(sdist):
    """Packs the archive itself: dates, modes, owners and order would be those of the checkout."""

    def make_archive(self, base_name: str, format: str, **options: Any) -> str:
        if format != "gztar":
            return str(super().make_archive(base_name, format, **options))
        date, root = os.environ[DATE_VARIABLE], Path(options["base_dir"])
        contents = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        contents[root / DATE_VARIABLE] = date.encode("ascii")
        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(date)) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path, content in sorted(contents.items()):
                entry = tarfile.TarInfo(path.as_posix())
                entry.size, entry.mtime, entry.mode = len(content), int(date), FILE_MODE
                archive.addfile(entry, io.BytesIO(content))
        return name


os.environ.setdefault(DATE_VARIABLE, str(source_date()))
setup(cmdclass={"build_py": BuildWithCheckpoints, "bdist_wheel": RepeatableWheel, "sdist": RepeatableSdist})
