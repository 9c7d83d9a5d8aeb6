"""A build backend that builds nothing: pip asks it for a source archive's metadata instead of running the archive's own code.

`pip download` wants the metadata of every source archive, and the ordinary way to it is to install and run
the archive's build system. The starter data sets are files inside such archives, so nothing has to run: a
copy of this file stands in for the two build systems that they name. It is run by pip, outside tunesmith.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE_VARIABLE = "TUNESMITH_STARTER_PACKAGE"
VERSION_VARIABLE = "TUNESMITH_STARTER_VERSION"

__legacy__ = sys.modules[__name__]


def get_requires_for_build_wheel(config_settings: object = None) -> list[str]:
    """No packages: nothing is built."""
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: object = None) -> str:
    """The name of the folder in `metadata_directory` that was filled with the package's name and version."""
    name, version = os.environ[PACKAGE_VARIABLE], os.environ[VERSION_VARIABLE]
    folder = Path(metadata_directory) / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return folder.name
