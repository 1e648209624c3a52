"""The one build step that pyproject.toml has no key for: a wheel gets a copy of conf/ as logreg/conf."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies the package, and conf/ into it; an editable install reads conf/ in the checkout."""

    def _conf(self) -> dict[str, str]:
        """The path of each copy, and the file that is copied."""
        files = sorted(Path("conf").rglob("*.yaml"))
        return {str(Path(self.build_lib, "logreg", file)): str(file) for file in files}

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for target, file in self._conf().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(file, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self._conf().values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._conf())]

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **({} if self.editable_mode else self._conf())}


setup(cmdclass={"build_py": BuildWithConf})
