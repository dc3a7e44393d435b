"""A CUDA device for machines that have none: build the library, and tell torch's Python side that it is there.

`device.cpp` says what the device is. The library must be there before torch asks for CUDA, which it does while it is
imported; so `install()` comes first in a process of its own, and this module is a plug-in of pytest
(`-p second_device`). Compiled once per version of torch and of the source, into a folder outside the tree.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SOURCE = Path(__file__).with_name("device.cpp")
PROPERTIES = SimpleNamespace(
    name="second device", major=8, minor=0, total_memory=16 << 30, multi_processor_count=8, warp_size=32,
    max_threads_per_multi_processor=2048, shared_memory_per_block=48 << 10, shared_memory_per_multiprocessor=64 << 10,
    regs_per_multiprocessor=65536, L2_cache_size=1 << 20, gcnArchName="", is_integrated=0,
)  # fmt: skip
"""What the device says of itself: an Ampere card."""


def missing() -> str | None:
    """Why the device cannot be built here; None when it can."""
    if shutil.which(compiler()) is None:
        return f"The second device needs a C++ compiler ({compiler()} is not found)."
    if not (libraries() / "libtorch_cuda.so").exists():
        return "The second device needs a torch that is built for CUDA; no GPU or driver is needed."
    return None


def compiler() -> str:
    """The C++ compiler."""
    return os.environ.get("CXX", "g++")


def libraries() -> Path:
    """torch's folder of libraries."""
    return Path(importlib.util.find_spec("torch").origin).parent / "lib"


def build() -> Path:
    """The compiled library.

    Raises:
        subprocess.CalledProcessError: the compiler refuses the source; its words are on stderr.
    """
    torch_version = importlib.metadata.version("torch")
    key = hashlib.sha256(f"{torch_version} {libraries()} {compiler()} {SOURCE.read_text()}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"second_device_{os.getuid()}"
    library = folder / f"{key}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        part = folder / f"{key}.{os.getpid()}"
        include = libraries().with_name("include")
        headers = [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
        linked = [f"-L{libraries()}", f"-Wl,-rpath,{libraries()}", "-ltorch_cpu", "-lc10"]
        command = [compiler(), "-std=c++20", "-O0", "-fPIC", "-shared", *headers, str(SOURCE), "-o", str(part), *linked]
        subprocess.run(command, check=True)
        part.replace(library)  # two processes may build at once
    return library


def install() -> None:
    """Make `cuda` the second device in this process."""
    if "torch" in sys.modules:
        raise RuntimeError("The second device must be installed before torch is imported.")
    ctypes.CDLL(str(build()), ctypes.RTLD_GLOBAL)
    import torch

    device = torch.ops.second_device
    if device.install() < 500:
        raise RuntimeError("Hardly any kernel was found: this torch registers them in another way.")
    count = int(os.environ.get("SECOND_DEVICES", "1"))
    for name, answer in answers(device, count).items():
        setattr(torch._C, name, answer)

    def exchange(index: int) -> int:
        before = device.current()
        if index >= 0:
            device.set_current(index)
        return before

    torch.cuda._initialized = True
    torch.cuda._cached_device_count = None
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: count
    torch.cuda.get_device_properties = lambda device=None: PROPERTIES
    torch.cuda.mem_get_info = lambda device=None: (PROPERTIES.total_memory // 2, PROPERTIES.total_memory)
    torch.cuda._exchange_device = torch.cuda._maybe_exchange_device = exchange
    torch.cuda.default_generators = tuple(device.default_generator(index) for index in range(count))
    torch.backends.cudnn.enabled = False
    made = torch.UntypedStorage.__new__

    def storage(cls: Any, *arguments: Any, device: Any = None, **others: Any) -> Any:
        if device is None or torch.device(device).type != "cuda":
            return made(cls, *arguments, **others) if device is None else made(cls, *arguments, device=device, **others)
        return torch.empty(*arguments, dtype=torch.uint8, device=device).untyped_storage()

    torch.UntypedStorage.__new__ = storage  # torch's asks the driver for memory, not the allocator


def answers(device: Any, count: int) -> dict[str, Any]:
    """What torch's own functions ask the driver, by the name of the C function that would."""
    return {
        "_cuda_init": lambda: None,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_getDeviceCount": lambda: count,
        "_cuda_getDevice": lambda: device.current(),
        "_cuda_setDevice": lambda index: device.set_current(index),
        "_cuda_synchronize": lambda: None,
        "_cuda_emptyCache": lambda: None,
        "_cuda_memoryStats": lambda index: {},
        "_cuda_resetPeakMemoryStats": lambda index: None,
        "_cuda_getCompiledVersion": lambda: 13000,
    }


if __name__ == "second_device" and "pytest" in sys.modules:  # as a plug-in: before any file of the tests is read
    install()
