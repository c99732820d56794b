"""The packages: those found under lit_narrative/, and configs/ as one of them; the rest stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["lit_narrative*"]), "lit_narrative.configs"])
