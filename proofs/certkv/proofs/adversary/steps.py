"""Whole steps under attack: decode a scene, judge it by float64 and enclosures."""

from __future__ import annotations

import math

import numpy as np

from certkv.proofs.adversary.attack import Attained
from certkv.proofs.campaign.settle import is_open, settle
from certkv.proofs.mutants.scene import Scene
from certkv.reference import Policy
from certkv.reference.exact import Enclosure, Verdict, judge
from certkv.reference.numbers.types import FloatArray


def judged(scene: Scene, output: FloatArray, bound: FloatArray) -> Verdict:
    """Judge head 0 of a scene with one KV head; what float64 leaves open is settled by enclosures.

    Parameters
    ----------
    scene : Scene
    output : float64 [q_heads, d]
    bound : float64 [q_heads]
    """
    k, v = scene.k[:, 0], scene.v[:, 0]
    (verdict,) = judge(output[:1], bound[:1], scene.q[:1], k, v, scene.scale, enclosures="vague")
    if is_open(verdict, float(bound[0])):
        return settle(output[0], float(bound[0]), scene.q[0], Enclosure(k, v), v.astype(np.float64), scene.scale)
    return verdict


def reached(scene: Scene, policy: Policy, out_dtype: str = "float64", rung: int | None = None) -> Attained:
    """Decode and judge head 0.

    Parameters
    ----------
    scene : Scene
        With one KV head.
    policy : Policy
    out_dtype : str
    rung : int, optional
        Count the result only if the step ended on this rung; a violation always counts.

    Returns
    -------
    Attained
    """
    step = scene.decode(policy, out_dtype=out_dtype)
    bound = float(step.certificate.bound[0])
    verdict = judged(scene, step.output.astype(np.float64), step.certificate.bound)
    attained = Attained(verdict.error_lb, bound)
    counts = rung is None or int(step.certificate.rung[0]) == rung
    return attained if counts or attained.violated else Attained(0.0, math.inf)
