"""A build backend that answers pip's one question about an sdist, its metadata, from the PKG-INFO inside it.

`pip download` asks each sdist's own build backend for its metadata. That would install build tools and run code of the
package, of which only the text is wanted. fetch.py puts this module in that backend's place instead, so it must stand
on the standard library alone.
"""

import email
import re
import shutil
from pathlib import Path
from typing import Any


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Nothing is needed (PEP 517 hook)."""
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Copy PKG-INFO as the metadata of the wheel that is never built (PEP 517 hook); return the folder's name."""
    found = [Path("PKG-INFO"), *sorted(Path().glob("*.egg-info/PKG-INFO"))]
    source = next(path for path in found if path.is_file())
    headers = email.message_from_bytes(source.read_bytes())
    name = re.sub(r"[-_.]+", "_", str(headers["Name"]))
    folder = Path(metadata_directory, f"{name}-{headers['Version']}.dist-info")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "METADATA")
    return folder.name


class _Legacy:
    """What `setuptools.build_meta:__legacy__` names: the backend of an sdist without pyproject.toml."""

    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)


__legacy__ = _Legacy()
