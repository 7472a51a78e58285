"""Attacks on whole steps: a cache is filled, a policy decodes, the output is judged against exact attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import NOTHING, STORED, Attack, Attained, Box
from certkv.proofs.adversary.steps import judged, reached
from certkv.proofs.mutants.inputs import HEAD_DIM, STEP, half, tilted
from certkv.proofs.mutants.scene import Scene
from certkv.reference import Budget, Naive, PaperPolicy, Policy
from certkv.reference.exact import Enclosure, distance
from certkv.reference.exact.enclosure import float_ub
from certkv.reference.formats import VALUE_FORMATS
from certkv.reference.numbers.types import FloatArray
from certkv.reference.steps.certify import COUPLED_FROM

LARGE = 1024
"""Tokens of a block: two of them span the range, have no residual and are lost to the attack."""

ONE_BLOCK = PaperPolicy(coverage=0.0, k_min=1, k_max=1, tail_threshold=1.0, value_tolerance=1e9)
"""Scores the heaviest block exactly and trusts the rest."""

GENEROUS = Budget(1e6, "absolute")
"""A tolerance that every bound meets: rung 0, first block original."""

LEAST = 3
"""Tokens of a block with two that span the range and one that does not."""

TOKENS, CHANNELS, BLOCK = 9, 4, 4
"""Of the free scenes: two blocks and one token of tail."""


def _attack(
    name: str,
    symbols: str,
    box: Box,
    evaluate: Callable[[FloatArray], Attained],
    starts: Callable[[], Sequence[FloatArray]],
    evaluations: int,
) -> Attack:
    return Attack(f"step.{name}", "step", symbols, box.low, box.high, evaluate, starts, evaluations, reproduces=STORED)


COUPLED = float(np.log10(COUPLED_FROM))
"""From here on theorem ``sharp`` bounds numerator and denominator together."""


def _tilted(name: str, policy: Policy, keys: str, least: float = -6.0, suffix: str = "") -> Attack:
    """Take a block whose residuals all point along the query, beside one that is coded exactly."""
    box = Box().add("log_delta", 1, least, 0.5).add("shift", 1, -8.0, 8.0).add("sign", 1, -1.0, 1.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        scene = tilted(
            delta,
            sign=1 if part["sign"][0] >= 0.0 else -1,
            block=LARGE,
            keys=keys,
            light_shift=float(part["shift"][0]) * delta,
            light_first=True,
        )
        return reached(scene, policy, rung=0)

    def starts() -> Sequence[FloatArray]:
        shifts = (4.0,) if least < COUPLED else (-1.0, 0.0, 1.0)
        near = [g for g in (-6.0, -4.0, -2.0, -0.5, -0.25, 0.0) if g >= least][:3]
        return [box.point(log_delta=g, shift=x, sign=sign) for g in near for x in shifts for sign in (1.0, -1.0)]

    symbols = f"{name}, coded keys {keys}{suffix}"
    variant = f"{name}_keys_{keys.replace('-', '_')}{'_coupled' if suffix else ''}"
    return _attack(variant, symbols, box, evaluate, starts, 80)


def _values(name: str, policy: Policy, values: str) -> Attack:
    """Dense keys that put the weight where the value residual is; a first block that is all alike."""
    box = Box().add("values", BLOCK * CHANNELS, -4.0, 4.0).add("scores", BLOCK, -40.0, 0.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        k, v = np.zeros((2 * BLOCK, CHANNELS)), np.zeros((2 * BLOCK, CHANNELS))
        k[:BLOCK, 0], k[BLOCK:, 0] = -40.0, part["scores"]
        v[BLOCK:] = part["values"].reshape(BLOCK, CHANNELS)
        q = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
        return reached(Scene(q, half(k), half(v), BLOCK, "dense", values), policy, rung=0)

    def starts() -> Sequence[FloatArray]:
        levels = 15 if "int4" in values else 255
        per_token = np.array([0.0, levels, levels // 2 + 0.5, levels // 2 + 0.5])
        columns = np.tile(per_token, (CHANNELS, 1)).T
        unit = 2.0 ** -np.ceil(np.log2(levels / 4.0))
        on_third = [-40.0, -40.0, 0.0, -40.0]
        return [box.point(values=unit * x, scores=on_third) for x in (columns, np.ascontiguousarray(columns.T))]

    return _attack(
        f"{name}_values_{values.replace('-', '_')}", f"{name}, coded values {values}", box, evaluate, starts, 300
    )


def _grid_block(step: float) -> FloatArray:
    """[LARGE, HEAD_DIM] keys: two that span 0 to 255 steps, the rest half a step off, as in `tilted`."""
    signs = np.resize([1.0, -1.0], HEAD_DIM)
    keys = np.tile(np.where(signs > 0, 126.5, 127.5) * step, (LARGE, 1))
    keys[0], keys[1] = 0.0, 255 * step
    return keys


def _rung_1() -> Attack:
    """Three blocks: the pinned one, one with large key errors that is promoted, one with small errors that stays."""
    box = Box().add("log_delta", 1, -6.0, -1.0).add("log_ratio", 1, 0.5, 6.0).add("log_limit", 1, -1.0, 3.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        coarse = 2.0 ** float(np.round(part["log_ratio"][0]))
        pinned = np.full((LARGE, HEAD_DIM), 127 * STEP)
        k = np.concatenate([pinned, _grid_block(coarse * STEP), _grid_block(STEP)])
        v = np.zeros(k.shape)
        v[:, 0] = np.repeat([-2.0, 1.0, 1.0], LARGE)
        q = 2.0 * delta / (HEAD_DIM * STEP) * np.resize([1.0, -1.0], HEAD_DIM)
        limit = delta * float(10.0 ** part["log_limit"][0])
        scene = Scene(q.astype(np.float32)[None], half(k), half(v), LARGE, "int8", "dense")
        return reached(scene, Budget(limit, "absolute"), rung=1)

    def starts() -> Sequence[FloatArray]:
        return [box.point(log_delta=g, log_ratio=5.0, log_limit=0.0) for g in (-6.0, -4.0)]

    return _attack("budget_rung_1", "budget, one key block promoted, one coded", box, evaluate, starts, 40)


def _rung_2() -> Attack:
    """As `_rung_1`, with value residuals."""
    box = Box().add("log_ratio", 1, 0.5, 6.0).add("log_limit", 1, -3.0, 1.0).add("base", 1, -4.0, 4.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        coarse = 2.0 ** float(np.round(part["log_ratio"][0]))
        v = np.zeros((3 * LARGE, CHANNELS))
        for block, step in ((1, coarse * STEP), (2, STEP)):
            v[block * LARGE : (block + 1) * LARGE] = 7.5 * step
            v[block * LARGE], v[block * LARGE + 1] = 0.0, 15 * step
        v[:LARGE] = float(part["base"][0])
        scene = Scene(np.ones((1, CHANNELS), np.float32), half(np.zeros(v.shape)), half(v), LARGE, "dense", "int4")
        return reached(scene, Budget(float(10.0 ** part["log_limit"][0]), "absolute"), rung=2)

    def starts() -> Sequence[FloatArray]:
        return [box.point(log_ratio=5.0, log_limit=-1.5, base=0.0)]

    return _attack("budget_rung_2", "budget, one value block promoted, one coded", box, evaluate, starts, 40)


def _both() -> Attack:
    """Key and value errors of one sign: the tilted block's values are ties whose residual points along the shift."""
    box = Box().add("log_delta", 1, -4.0, -0.5).add("log_residual", 1, -9.0, -1.0).add("light", 1, -4.0, 4.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        scene = tilted(float(10.0 ** part["log_delta"][0]), sign=1, block=LARGE)
        step = 2.0 ** float(np.round(part["log_residual"][0]))
        v = np.zeros((2 * LARGE, HEAD_DIM))
        v[:LARGE, 0] = 7.5 * step  # stored as 8 steps: the decoded value is half a step too high
        v[0, 0], v[1, 0] = 0.0, 15 * step
        v[LARGE:, 0] = 7.5 * step + float(part["light"][0])
        return reached(Scene(scene.q, scene.k, half(v), LARGE, "int8", "int4"), Naive())

    def starts() -> Sequence[FloatArray]:
        return [
            box.point(log_delta=g, log_residual=r, light=x)
            for g in (-4.0, -3.0)
            for r in (-9.0, -5.0)
            for x in (2.0, -2.0)
        ]

    return _attack("naive_keys_and_values", "naive, coded keys and values together", box, evaluate, starts, 60)


def _tolerance() -> Attack:
    """Take a value residual that lengthens the output: the exact norm is the smallest that the tolerance allows."""
    box = Box().add("value", CHANNELS, -4.0, 4.0).add("log_tolerance", 1, -3.0, 0.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        t = float(10.0 ** part["log_tolerance"][0])
        k, v = np.zeros((2 * LEAST, CHANNELS)), np.zeros((2 * LEAST, CHANNELS))
        k[:LEAST, 0], k[LEAST : LEAST + 2, 0] = -40.0, -40.0
        v[LEAST:] = part["value"]
        v[LEAST], v[LEAST + 1] = 0.0, 2.0 * part["value"]
        q = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
        scene = Scene(q, half(k), half(v), LEAST, "dense", "int4")
        step = scene.decode(Budget(t, "output"))
        if int(step.certificate.rung[0]) > 0:
            return NOTHING
        error = judged(scene, step.output, step.certificate.bound).error_lb
        exact = Enclosure(scene.k[:, 0], scene.v[:, 0]).attention(scene.q[0], scene.scale)
        return Attained(error, float_ub(arb(t) * distance(np.zeros(CHANNELS), exact)))

    def starts() -> Sequence[FloatArray]:
        # 7.5 steps are stored as 8: an error of 1/15 of the exact norm; the last one must not be accepted
        return [box.point(value=7.5 * 2.0**-2, log_tolerance=np.log10(x / 15.0)) for x in (1.0 + 1e-6, 1.001, 0.97)]

    bound = "t norm of the exact output, where t/(1+t) norm of the returned one was met"
    return Attack("tolerance.output", "tolerance", bound, box.low, box.high, evaluate, starts, 200, reproduces=STORED)


def _cast(out_dtype: str) -> Attack:
    """Dense formats, so that all error beside the arithmetic is the cast of the output."""
    box = Box().add("values", 4, -4.0, 4.0).add("score", 1, -8.0, 8.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        k = np.array([[0.0, 0.0], [float(part["score"][0]), 0.0]])
        q = np.array([[1.0, 0.0]], np.float32)
        scene = Scene(q, half(k), half(part["values"].reshape(2, 2)), 2, "dense", "dense")
        return reached(scene, Naive(), out_dtype)

    def starts() -> Sequence[FloatArray]:
        return [box.point(values=[1.0, 1.0, 2.0**-10, 2.0**-12], score=s) for s in (0.0, -3.0)]

    return _attack(f"cast_{out_dtype}", f"naive, dense formats, output {out_dtype}", box, evaluate, starts, 150)


def _free(
    name: str,
    keys: str,
    values: str,
    policy: Callable[[float], Policy],
    suffix: str = "",
    evaluations: int = 2500,
) -> Attack:
    """Two small blocks and a tail, every element free: what a search finds that was told nothing."""
    size = TOKENS * CHANNELS
    box = Box().add("keys", size, -4.0, 4.0).add("values", size, -4.0, 4.0).add("query", CHANNELS, -1.0, 1.0)
    box.add("log_query", 1, -4.0, 2.0).add("log_tolerance", 1, -4.0, 1.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        q = (10.0 ** part["log_query"][0] * part["query"]).astype(np.float32)[None]
        k, v = (half(part[side].reshape(TOKENS, CHANNELS)) for side in ("keys", "values"))
        scene = Scene(q, k, v, BLOCK, keys, values, scale=0.5)
        attained = reached(scene, policy(float(10.0 ** part["log_tolerance"][0])))
        # what is left where everything was promoted is arithmetic, which has its own attacks
        return attained if attained.bound > 1e-9 or attained.violated else NOTHING

    symbols = f"{name}, {keys} and {values}, no construction"
    return _attack(f"{name}{suffix}_free", symbols, box, evaluate, lambda: (), evaluations)


def attacks() -> list[Attack]:
    """All of this file."""
    lossy = [name for name in VALUE_FORMATS if name != "dense"]
    return [
        *(_tilted("naive", Naive(), keys) for keys in ("int8", "int8-paper")),
        _tilted("naive", Naive(), "int8", COUPLED, ", Delta above 0.3"),
        _tilted("paper", ONE_BLOCK, "int8-paper"),
        _tilted("budget", GENEROUS, "int8"),
        *(_values("naive", Naive(), values) for values in lossy),
        _values("paper", ONE_BLOCK, "int4-g16"),
        _values("budget", GENEROUS, "int4-g32"),
        _both(),
        _rung_1(),
        _rung_2(),
        _tolerance(),
        *(_cast(dtype) for dtype in ("float32", "float16", "bfloat16")),
        _free("naive", "int8", "int4", lambda _: Naive()),
        _free("paper", "int8-paper", "int4-g16", lambda t: replace(ONE_BLOCK, coverage=0.5, value_tolerance=t)),
        _free("budget", "int8", "int4-g32", lambda t: Budget(t, "absolute")),
        # two bits, rotated and scaled; and levels between them and originals
        _free("naive", "oscar", "oscar", lambda _: Naive(), "_oscar", 600),
        _free("budget", "oscar+2+4", "oscar+2+4", lambda t: Budget(t, "absolute"), "_planes", 600),
    ]
