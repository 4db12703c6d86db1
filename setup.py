"""The C extension alone; all else is in setup.cfg. Where it cannot be built, the installation goes on without."""

from setuptools import Extension, setup

DECODER = Extension(
    "data.region_decoder",
    ["data/region_decoder.c", "data/region.c"],
    depends=["data/region.h"],
    libraries=["jpeg"],
    extra_compile_args=["-O3", "-std=c11", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(ext_modules=[DECODER])
