# SPDX-License-Identifier: Apache-2.0
"""Builds the extension with libinfclient linked in: the wheel needs no other file of infbroker.

For the tests: INFCLIENT_LIBRARY names a libinfclient.a to link instead of building one (one under ASan), INFCLIENT_BUILD a
folder to build in.
"""

import os
import pathlib
import re
import subprocess

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def version() -> str:
    text = (ROOT / "include/inf/version.h").read_text()
    found = re.search(r'INF_VERSION_STRING "([^"]+)"', text)
    assert found, "include/inf/version.h has no INF_VERSION_STRING"
    return found.group(1)


class BuildExt(build_ext):
    def build_extension(self, ext: Extension) -> None:
        library = os.environ.get("INFCLIENT_LIBRARY")
        if not library:
            build = pathlib.Path(self.build_temp).resolve() / "library"
            library = str(build / "libinfclient.a")
            subprocess.run(["make", "-C", str(ROOT), f"BUILD={build}", "WITH_TORCH=0", library], check=True)
        ext.extra_objects = [library]
        ext.depends.append(library)
        super().build_extension(ext)


BUILD = os.environ.get("INFCLIENT_BUILD", str(ROOT / "build/wheel"))
# Paths relative to this folder, as setuptools wants them.
SOURCES = sorted(str(path.relative_to(HERE)) for path in (HERE / "core").glob("*.c"))

setup(
    version=version(),
    ext_modules=[
        Extension(
            "infclient._core",
            SOURCES,
            include_dirs=[str(ROOT), str(ROOT / "include")],
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            extra_compile_args=["-std=gnu17", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-missing-field-initializers"],
            depends=["core/core.h"],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}, "build": {"build_base": BUILD}},
)
