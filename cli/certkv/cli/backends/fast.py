"""The kernel library as a backend: its torch twins on a CPU, its Triton kernels on a GPU, or those interpreted.

Its cache is append-only, so causal queries are taken in the order of their positions, with the tokens between two of
them appended in between; every policy takes its step before the next tokens come. Outputs are float32, as the kernels
compute them, and certified as such.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import torch

from certkv import fast
from certkv.cli.backends.base import CacheSettings, Formats, Storage, Taken
from certkv.cli.capture import Capture, Layer
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.fast.formats.planar import Planar
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS, key_format, value_format
from certkv.fast.plan import Plan
from certkv.reference import Certificate, DTypeError, InputError, Policy, SettingError, Status, Step
from certkv.reference.numbers.types import AnyArray, FloatArray, IntArray
from certkv.reference.policies import OURS, FormatDefaults

TYPES = {np.dtype(np.float16): torch.float16, np.dtype(ml_dtypes.bfloat16): torch.bfloat16}

KEYS, VALUES = (*KEY_FORMATS, *PLANAR_KEY_FORMATS), (*VALUE_FORMATS, *PLANAR_VALUE_FORMATS)
"""Names of the formats that the kernel library has."""

POLICIES = {policy.name: policy for policy in (fast.Naive, fast.PaperPolicy, fast.Budget)}


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU in this process, as a user may ask of it."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def speaking_of(what: str) -> Iterator[None]:
    """Turn what the kernel library refuses into an error of this command, which names ``what``.

    Raises
    ------
    InputError
    MemoryError
        The GPU has not enough.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except fast.CertkvError as error:
        raise InputError(f"{what}: {error}") from error


class FastBackend:
    """Takes the formats that have kernels, and what `certkv.fast.plan` plans.

    Parameters
    ----------
    name : "torch" or "triton"
    device : "cpu" or "cuda"
    """

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = torch.device(device)
        self.note = f"note: backend {name} does not evaluate the paper's formula; its claims count as infinite"

    @property
    def versions(self) -> dict[str, str]:
        """Of torch, and of Triton where it compiles or interprets; and what it ran on."""
        made = {"torch": torch.__version__}
        if self.name == "triton":
            import triton

            made["triton"] = triton.__version__
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {**made, "device": where if self.name == "torch" or where != "cpu" else "cpu, kernels interpreted"}

    def formats(self, policy: Policy, asked: Formats) -> CacheSettings:
        """Return the user's formats; else the policy's own; else, where there is no kernel for these, ours."""
        own = policy.formats
        keys = own.keys if own.keys in KEYS else OURS.keys
        values = own.values if own.values in VALUES else OURS.values
        return asked.over(FormatDefaults(keys, values, own.block))

    def check(self, capture: Capture, asked: Formats) -> None:
        """Refuse formats without kernels, queries of another type, and head sizes that kernels do not take.

        Raises
        ------
        SettingError, DTypeError, InputError
        """
        if asked.residual is not None:
            raise SettingError(
                f"--residual {asked.residual}: backend {self.name} codes every block as soon as it is full; leave "
                "--residual out, or use --backend reference"
            )
        sides = (("--keys", asked.keys, KEYS, key_format), ("--values", asked.values, VALUES, value_format))
        for option, name, known, find in sides:
            if name is not None and name not in known:
                raise SettingError(
                    f"{option}: backend {self.name} has no format {name!r}; choose one of {', '.join(known)}, or "
                    "--backend reference"
                )
            fmt = None if name is None else find(name)
            # what a plan refuses on a GPU, and not in the interpreter
            if self.name == "triton" and isinstance(fmt, Planar) and fmt.divided:
                raise SettingError(
                    f"{option} {name}: kernels do not write its base plane yet; use --backend torch or reference"
                )
        for layer in capture.layers:
            if layer.q.dtype != layer.k.dtype:
                raise DTypeError(
                    f"{layer.prefix}q is {layer.q.dtype.name}, but backend {self.name} takes queries of the type of "
                    f"{layer.prefix}k and {layer.prefix}v, {layer.k.dtype.name}; save q so, or use --backend reference"
                )
            with speaking_of(f"backend {self.name}, layer {layer.index}"):
                self.plan(self.cache(layer, asked.over(OURS), 1), layer, fast.Naive())

    def hold(self, layer: Layer, formats: CacheSettings) -> FastLayer:
        """Make an empty cache; its steps fill it."""
        return FastLayer(self, layer, formats)

    def cache(self, layer: Layer, formats: CacheSettings, tokens: int) -> fast.TieredCache:
        """Make an empty cache for a layer's shape."""
        _, kv_heads, head_dim = layer.k.shape
        return fast.TieredCache(
            batch=1,
            kv_heads=kv_heads,
            head_dim=head_dim,
            capacity=tokens,
            dtype=TYPES[layer.k.dtype],
            keys=formats.keys,
            values=formats.values,
            block=formats.block,
            planes=formats.planes,
            device=self.device,
        )

    def plan(self, cache: fast.TieredCache, layer: Layer, policy: fast.Naive | fast.PaperPolicy | fast.Budget) -> Plan:
        """Plan steps with float32 outputs."""
        heads = layer.q.shape[1]
        made = fast.plan(cache, heads, policy, layer.scale, torch.float32)
        if self.name == "triton" and self.device.type == "cpu":
            from certkv.fast.arithmetic import INTERPRETED
            from certkv.fast.passes import kernels

            made = Plan(cache, heads, policy, made.scale, torch.float32, implementation=(kernels(), INTERPRETED))
        return made


class FastLayer:
    """One layer's cache."""

    def __init__(self, backend: FastBackend, layer: Layer, formats: CacheSettings) -> None:
        self.backend, self.layer, self.formats = backend, layer, formats
        self.what = f"backend {backend.name}, layer {layer.index}"
        with speaking_of(self.what):
            self.held = backend.cache(layer, formats, layer.tokens)

    def blocks(self, tokens: int) -> int:
        """Return how many blocks of so many tokens are coded."""
        return tokens // self.held.block

    def steps(self, policies: Sequence[Policy]) -> Iterator[Taken]:
        """Take every query under every policy, in the order of positions."""
        layer = self.layer
        with speaking_of(self.what):
            plans = [self.backend.plan(self.held, layer, translated(policy)) for policy in policies]
            results = [plan.step() for plan in plans]
        for query in sorted(range(layer.queries), key=layer.visible):
            with speaking_of(self.what):
                self.append_to(layer.visible(query))
            q = self.tensor(layer.q[query])
            for index, (plan, out) in enumerate(zip(plans, results, strict=True)):
                with speaking_of(
                    f"{layer.prefix}q[{query}], policy {policies[index].name}, backend {self.backend.name}"
                ):
                    plan.index.fill_(query)
                    plan.run(q, out=out)
                    if not bool((out.certificate.status == int(fast.Status.CHECKSUM)).any()):
                        out.resolve()  # rung 4 where a monitor asks for it; not to hide a number that is none
                    out.check()
                yield Taken(index, query, as_reference(out))
        with speaking_of(self.what):
            self.append_to(layer.tokens)  # what no query saw: the storage is that of all tokens

    def append_to(self, tokens: int) -> None:
        """Append what is missing to so many tokens."""
        new = slice(self.held.tokens[0], tokens)
        if new.start < new.stop:
            self.held.append(self.tensor(self.layer.k[new]), self.tensor(self.layer.v[new]))

    def tensor(self, array: AnyArray) -> torch.Tensor:
        """Return the same bits as a tensor on the device, with an axis for the one sequence."""
        bits = torch.from_numpy(np.ascontiguousarray(array).view(np.int16).copy())
        return bits.view(TYPES[array.dtype])[None].to(self.backend.device)

    def storage(self, policy: Policy) -> Storage:
        """Read back what the cache was; only pages that are used are counted, and the first block is always kept."""
        cache, pool = self.held, self.held.pool
        heads, blocks = cache.kv_heads, cache.blocks(0)
        per_block = pool.nbytes / (len(pool.key_codes) * heads)
        notes = pool.note_bytes / (len(pool.key_codes) * heads)
        planes = blocks * sum(map(sum, cache.planes.block_bytes))
        beside = planes if cache.planes.place == "device" else 0
        tail = cache.tokens[0] - blocks * cache.block
        dense = 2 * cache.head_dim * 2
        return Storage(
            layer=self.layer.index,
            keys=cache.keys,
            values=cache.values,
            block=cache.block,
            residual=cache.block,
            planes=cache.planes.place if cache.planes.some else None,
            blocks=blocks,
            tail=tail,
            coded_bytes_per_token=(per_block - notes) / cache.block,
            device_bytes=round(per_block * blocks) + beside + (tail + cache.block * min(blocks, 1)) * dense,
            plane_bytes=planes,
            dense_bytes=cache.tokens[0] * dense,
        )


def translated(policy: Policy) -> fast.Naive | fast.PaperPolicy | fast.Budget:
    """Return the kernel library's policy of the same name and parameters."""
    kind = POLICIES[policy.name]
    return kind(**{field.name: getattr(policy, field.name) for field in dataclasses.fields(kind)})


def as_reference(step: fast.Step) -> Step:
    """Return what came out as the reference would; every number is exact in its wider type.

    The formula of arXiv 2605.20868 is not evaluated by kernels: its claim is infinite.
    """
    made = step.certificate

    def reals(x: torch.Tensor) -> FloatArray:
        return x[0].double().cpu().numpy().copy()

    def wholes(x: torch.Tensor) -> IntArray:
        return x[0].long().cpu().numpy().copy()

    status = [Status[fast.Status(code).name] for code in made.status[0].tolist()]
    certificate = Certificate(
        bound=reals(made.bound),
        key=reals(made.key),
        value=reals(made.value),
        arithmetic=reals(made.arithmetic),
        tolerance=reals(made.tolerance),
        rung=wholes(made.rung),
        status=np.array(status, np.int64),
        promoted=wholes(made.promoted),
        host_bytes=wholes(made.host_bytes),
        plane_bytes=wholes(made.plane_bytes),
        levels=wholes(made.levels),
    )
    claim = np.full(len(status), np.inf)
    output = step.output[0].cpu().numpy().copy()  # the next run writes to the same tensors
    return Step(output, reals(step.lse), certificate, claim, int(made.host_bytes.sum()))
