"""Build hook (pyproject.toml): compiles the kernels into the wheel, or warns why it cannot."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent


class KernelsHook(BuildHookInterface):
    """Adds the library to the wheel; editable installs find it beside the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a wheel that holds the library is for this platform and every Python 3."""
        if self.target_name != "wheel":
            return
        spec = importlib.util.spec_from_file_location("aez_build_kernels", HERE / "build.py")
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            build.build()
        except build.BuildError as error:
            self.app.display_warning(
                f"aez: the kernels were not built, numpy will do their work: {error}"
            )
            return
        build_data["tag"] = build.wheel_tag()
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"/codec/kernels/{build.LIBRARY}")
