"""Which packages are installed: those of the systems, and `scripts` as `burnish`. All else is pyproject's."""

from setuptools import find_packages, setup

systems = find_packages(include=["vision*", "restoration*", "recon3d*", "reward_vlm*"])
setup(packages=["burnish", *(f"burnish.{name}" for name in find_packages("scripts")), *systems])
