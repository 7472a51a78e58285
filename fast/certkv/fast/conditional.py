"""Work that a captured CUDA graph does only where a number on the device says so: conditional nodes.

`torch.cuda.CUDAGraph` has none of its own, but the stream that is being captured takes them: a node is added to the
graph that grows, its body is captured from another stream, and a kernel of one thread sets the condition. NVIDIA's
``cuda-bindings`` (of which torch's CUDA builds from 13.0 on depend) has the calls. Without them, outside a capture, and
on drivers before 12.4 the body simply follows: its kernels are predicated by flags of their own, so that results are
the same and only time is lost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

SET_CONDITION = """
.version 8.3
.target sm_80
.address_size 64
.extern .func cudaGraphSetConditional (.param .b64 handle, .param .b32 value);
.visible .entry set_condition(.param .u64 handle, .param .u64 flag)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [handle];
    ld.param.u64 %rd2, [flag];
    cvta.to.global.u64 %rd3, %rd2;
    ld.global.u32 %r1, [%rd3];
    mov.u32 %r2, 0;
    st.global.u32 [%rd3], %r2;
    setp.ne.s32 %p1, %r1, 0;
    selp.u32 %r2, 1, 0, %p1;
    {
        .param .b64 param0;
        st.param.b64 [param0+0], %rd1;
        .param .b32 param1;
        st.param.b32 [param1+0], %r2;
        call.uni cudaGraphSetConditional, (param0, param1);
    }
    ret;
}
"""
"""One thread: the condition is whether the flag is set; the flag is cleared for the next run."""

LEAST_DRIVER, LEAST_BINDINGS = 12040, 13


class ConditionError(RuntimeError):
    """A CUDA call failed while a conditional node was prepared or captured."""


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return what a call of cuda-bindings returned beside its error code."""
    if int(answer[0]) != 0:
        raise ConditionError(f"{answer[0]!r}, for a conditional node")
    return answer[1] if len(answer) == 2 else answer[1:]


@cache
def _bindings() -> tuple[Any, Any] | None:
    """Return ``cuda.bindings.runtime`` and ``.driver``, or None where conditional nodes are not to be had."""
    try:
        from cuda import bindings
        from cuda.bindings import driver, runtime
    except ImportError:
        return None
    # older bindings have other signatures
    if int(bindings.__version__.split(".")[0]) < LEAST_BINDINGS:
        return None
    if int(_checked(driver.cuDriverGetVersion())) < LEAST_DRIVER:
        return None
    return runtime, driver


@cache
def _function(device: int) -> Any:
    """Load the kernel that sets a condition; kept for as long as the process lives."""
    bindings = _bindings()
    if bindings is None:
        raise ConditionError("cuda-bindings is missing, or the driver is older than 12.4")
    runtime, driver = bindings
    with torch.cuda.device(device):
        _checked(runtime.cudaFree(0))  # makes the device's context current in a thread that has none
        module = _checked(driver.cuModuleLoadData(SET_CONDITION.encode() + b"\0"))
        return _checked(driver.cuModuleGetFunction(module, b"set_condition"))


def prepare(device: torch.device) -> bool:
    """Load what `when` needs, outside a capture; return whether it will make conditional nodes there."""
    if device.type != "cuda" or _bindings() is None:
        return False
    _function(device.index if device.index is not None else torch.cuda.current_device())
    return True


@contextmanager
def when(flag: torch.Tensor) -> Iterator[None]:
    """Do what follows where the flag is set, if a graph is being captured; otherwise do it.

    Parameters
    ----------
    flag : int32 [1]
        Set by kernels before; cleared where it is looked at, which is in graphs only.

    Raises
    ------
    ConditionError
        A CUDA call failed.
    """
    bindings = _bindings() if flag.is_cuda and torch.cuda.is_current_stream_capturing() else None
    if bindings is None:
        yield
        return
    runtime, driver = bindings
    stream = torch.cuda.current_stream(flag.device)
    graph = _checked(runtime.cudaStreamGetCaptureInfo(stream.cuda_stream))[2]
    handle = _checked(runtime.cudaGraphConditionalHandleCreate(graph, 0, 0))
    values = ((int(handle), flag.data_ptr()), (ctypes.c_uint64, ctypes.c_void_p))
    one = (1, 1, 1)
    _checked(driver.cuLaunchKernel(_function(flag.device.index), *one, *one, 0, stream.cuda_stream, values, 0))
    body = _add_node(runtime, stream, handle)
    inner = torch.cuda.Stream(flag.device)  # type: ignore[no-untyped-call]
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    _checked(runtime.cudaStreamBeginCaptureToGraph(inner.cuda_stream, body, None, None, 0, mode))
    try:
        with torch.cuda.stream(inner):
            yield
    finally:
        _checked(runtime.cudaStreamEndCapture(inner.cuda_stream))


def _add_node(runtime: Any, stream: torch.cuda.Stream, handle: Any) -> Any:
    """Add a conditional node after what was captured so far, and let what follows depend on it; return its body."""
    info = _checked(runtime.cudaStreamGetCaptureInfo(stream.cuda_stream))
    graph, before, edges = info[2], info[3], info[4]
    node = runtime.cudaGraphNodeParams()
    node.type = runtime.cudaGraphNodeType.cudaGraphNodeTypeConditional
    node.conditional.handle = handle
    node.conditional.type = runtime.cudaGraphConditionalNodeType.cudaGraphCondTypeIf
    node.conditional.size = 1
    made = _checked(runtime.cudaGraphAddNode(graph, before, edges, len(before), node))
    replace = runtime.cudaStreamUpdateCaptureDependenciesFlags.cudaStreamSetCaptureDependencies
    _checked(runtime.cudaStreamUpdateCaptureDependencies(stream.cuda_stream, [made], None, 1, replace))
    return node.conditional.phGraph_out[0]
