"""Attend as it is, and without what only a certificate needs; to be compiled by tests/fast/hopper.py."""

from __future__ import annotations

import sys

import torch

from certkv.cli.bench.bare import without_certificates
from certkv.fast import Naive, TieredCache
from certkv.fast.arithmetic import H200
from certkv.fast.passes import kernels
from certkv.fast.plan import Plan


def launches() -> None:
    for keys, values in (("int8", "int4"), ("int8", "int8"), ("oscar", "oscar")):
        cache = TieredCache(1, 2, 128, 4096, torch.float16, keys, values)
        made = Plan(cache, 8, Naive(), 0.1, torch.float16, splits=4, implementation=(kernels(), H200))
        q = torch.zeros(1, 8, 128, dtype=torch.float16)
        made.passes.attend(q, made.coded, cache.resident, 0.1, made.ws)
        with without_certificates(sys.modules) as count:
            print(f"variants {count} 0 0 0")
            made.passes.attend(q, made.coded, cache.resident, 0.1, made.ws)
