"""A real NVIDIA device, for tests on a machine that has one."""

from __future__ import annotations

import shutil
import subprocess

import pytest

MIB = 1024**2
TAKEN_BYTES = 1024 * MIB
# Takes device memory through the driver alone, as any engine does: first CUDA context, then one block of it.
TAKE_MEMORY = f"""
import ctypes, os, time
cuda = ctypes.CDLL("libcuda.so.1")
def ok(status): assert status == 0, status
count, context, block = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
ok(cuda.cuInit(0))
ok(cuda.cuDeviceGetCount(ctypes.byref(count)))
ok(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
ok(cuda.cuCtxSetCurrent(context))
ok(cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t({TAKEN_BYTES})))
print("devices", count.value, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(600)
"""


def has_nvidia() -> bool:
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True, timeout=30).returncode == 0


nvidia = pytest.mark.skipif(not has_nvidia(), reason="needs an NVIDIA device")
