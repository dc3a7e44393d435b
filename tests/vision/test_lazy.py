"""Packages whose names are imported when they are asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from vision.lazy import attach


@pytest.mark.parametrize("package", ("restoration",))
def test_names_are_what_they_say_whatever_was_imported_before(package):
    found = importlib.import_module(package)
    for name in found.__all__:
        assert type(getattr(found, name)).__name__ != "module", name
    code = "import restoration.iter.lessons; from restoration import degrade; assert callable(degrade)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_named_like_what_it_offers_is_refused():
    with pytest.raises(ValueError, match=r"a\.b has the name of something that a offers"):
        attach("a", {"a.b": "b c"})
