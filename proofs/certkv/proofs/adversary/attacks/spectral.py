"""Attacks on spectral, weighted_sums, quotient and the operator form of score_error, as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import NOTHING, STORED, Attack, Attained, Box
from certkv.proofs.adversary.attacks.scores import half_steps
from certkv.proofs.adversary.balls import (
    balls,
    largest_ub,
    lower,
    minus,
    norm,
    normalised,
    precisely,
    total,
    upper,
    weighted,
)
from certkv.proofs.adversary.blocks import ball, differences, meaning, rational, to_type
from certkv.reference.annotations import annotate_keys
from certkv.reference.annotations.operator_norm import operator_norm_ub
from certkv.reference.bounds import quotient, score_error, spectral, weighted_sums
from certkv.reference.bounds.spectral import Heaviest, ScoreKnowledge
from certkv.reference.bounds.weighted_sums import Sums
from certkv.reference.formats import key_format, step_per_channel
from certkv.reference.numbers.types import FloatArray

TOKENS, CHANNELS, BLOCKS = 4, 2, 2
Form = Callable[[Sums, FloatArray, FloatArray], FloatArray]

OPERATOR_SLACK = 1.0 + 1e-12
"""The rows that are measured are off by a few units in the last place; their operator norm by as much."""


def limits(errors: list[arb]) -> tuple[FloatArray, FloatArray]:
    """Upper bounds of the largest error and of their norm, [1] each."""
    return np.array([largest_ub(abs(e) for e in errors)]), np.array([upper(norm(errors))])


def _sums(name: str, symbols: str, exact: Callable[[list[arb], list[arb]], arb]) -> Attack:
    box = Box().add("log_weights", TOKENS, -3.0, 0.0).add("errors", TOKENS, 0.0, 1.0).add("log_size", 1, -3.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        beta = 10.0 ** part["log_weights"]
        errors = balls(part["errors"] * 10.0 ** part["log_size"])
        delta, omega = limits(errors)
        # looked up at call time, so that a planted form is the one that is attacked
        form: Form = getattr(weighted_sums, f"{name}_order")
        return Attained(lower(exact(balls(beta), errors)), float(form(weighted_sums.sums(beta[None]), delta, omega)[0]))

    def starts() -> Sequence[FloatArray]:
        return [
            box.point(log_weights=-1.0, errors=1.0, log_size=0.0),
            box.point(log_weights=[0.0, -3.0, -3.0, -3.0], errors=[1.0, 0.0, 0.0, 0.0], log_size=0.0),
            box.point(log_weights=[0.0, -0.3, -0.3, -0.3], errors=[1.0, 0.5, 0.5, 0.5], log_size=0.0),
        ]

    return Attack(f"weighted_sums.{name}", "weighted_sums", symbols, box.low, box.high, evaluate, starts, 800)


class Block:
    """A drawn block: shares, errors, values and their residuals as balls, and what a certificate knows of them."""

    def __init__(self, shares: list[arb], errors: list[arb], values: FloatArray, residuals: FloatArray) -> None:
        """Take shares as they are; values and residuals [tokens, CHANNELS] are exact numbers."""
        self.shares, self.errors = shares, errors
        self.values, self.residuals = [balls(v) for v in values], [balls(e) for e in residuals]
        self.shares_ub = np.array([[[upper(a) for a in shares]]])

    def knowledge(self) -> ScoreKnowledge:
        """Return the limits that the errors just keep."""
        delta, omega = limits(self.errors)
        return ScoreKnowledge(delta[None], omega[None])

    def rows(self, vectors: list[list[arb]]) -> tuple[FloatArray, FloatArray]:
        """Sizes of vectors, [1, tokens], and the operator norm of the rows divided by them, [1]."""
        sizes = np.array([[upper(norm(v)) for v in vectors]])
        rows = np.array([[float(x.mid()) for x in v] for v in vectors]) / np.where(sizes > 0, sizes, 1.0)[0, :, None]
        return sizes, np.array([float(operator_norm_ub(rows)) * OPERATOR_SLACK])

    def moved(self, output: list[arb]) -> list[arb]:
        """``sum a'(w - 1)(V - c)``."""
        lost = [a * (-e).expm1() for a, e in zip(self.shares, self.errors, strict=True)]
        return weighted(lost, [minus(v, output) for v in self.values])

    def key_term(self, anchor: list[arb], output: list[arb], apart: bool) -> FloatArray:
        """Return ``C_b``; the heaviest token's own distance is known or not."""
        sizes, operator = self.rows([minus(v, anchor) for v in self.values])
        token = int((self.shares_ub[0, 0] * sizes[0]).argmax())
        radius = upper(norm(minus(self.values[token], output))) if apart else np.inf
        gamma = np.array([upper(norm(minus(output, anchor)))])
        heaviest = Heaviest(np.array([[token]]), np.array([[radius]]))
        return spectral.key_terms(self.shares_ub, sizes, operator, gamma, self.knowledge(), heaviest)

    def direct_term(self, output: list[arb]) -> FloatArray:
        """Return ``C_b`` from every token's own distance."""
        radii = np.array([[[upper(norm(minus(v, output))) for v in self.values]]])
        return spectral.direct_key_terms(self.shares_ub, radii, self.knowledge())

    def value_term(self) -> FloatArray:
        """Return ``U_b``."""
        sizes, operator = self.rows(self.residuals)
        return spectral.value_terms(self.shares_ub, sizes, operator)

    def weight(self) -> FloatArray:
        """Return ``D_b``."""
        mass = np.array([[lower(total(self.shares))]])
        return spectral.weight_lb(self.shares_ub, mass, self.knowledge())


def _drawn() -> Box:
    box = Box().add("log_shares", TOKENS, -6.0, 0.0).add("off", TOKENS, -1.0, 1.0).add("log_delta", 1, -5.0, 0.7)
    return box.add("values", TOKENS * CHANNELS, -4.0, 4.0).add("residuals", TOKENS * CHANNELS, -1.0, 1.0)


def _block(part: dict[str, FloatArray]) -> Block:
    errors = balls(part["off"] * 10.0 ** part["log_delta"])
    shape = (TOKENS, CHANNELS)
    shares = balls(10.0 ** part["log_shares"])
    return Block(shares, errors, part["values"].reshape(shape), part["residuals"].reshape(shape))


ALIKE = np.tile([3.0, 1.0], TOKENS)


def _key(variant: str, symbols: str, apart: bool) -> Attack:
    box = _drawn().add("anchor", CHANNELS, -4.0, 4.0).add("output", CHANNELS, -4.0, 4.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        block, anchor, output = _block(part), balls(part["anchor"]), balls(part["output"])
        return Attained(lower(norm(block.moved(output))), float(block.key_term(anchor, output, apart)[0, 0]))

    def starts() -> Sequence[FloatArray]:
        same: dict[str, float | FloatArray] = {"values": ALIKE, "residuals": 0.0, "anchor": 0.0, "output": 0.0}
        alone = [0.0, -6.0, -6.0, -6.0]
        return [
            *(box.point(log_shares=-1.0, off=-1.0, log_delta=g, **same) for g in (-5.0, -1.0, 0.5)),
            *(box.point(log_shares=alone, off=[-1.0, 0, 0, 0], log_delta=g, **same) for g in (-5.0, 0.5)),
        ]

    return Attack(f"spectral.{variant}", "spectral", symbols, box.low, box.high, evaluate, starts, 1200)


def _direct() -> Attack:
    box = _drawn().add("output", CHANNELS, -4.0, 4.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        block, output = _block(part), balls(part["output"])
        return Attained(lower(norm(block.moved(output))), float(block.direct_term(output)[0, 0]))

    def starts() -> Sequence[FloatArray]:
        # equal distances; and distances 1, 2, 3 and 4 on a line through the output, with equal a' r
        line = np.outer([1.0, 2.0, 3.0, 4.0], [0.6, 0.8]).ravel()
        rest: dict[str, float | FloatArray] = {"residuals": 0.0, "output": 0.0}
        return [
            box.point(log_shares=shares, off=-1.0, log_delta=g, values=values, **rest)
            for shares, values in ((-1.0, ALIKE), (-np.log10([1.0, 2.0, 3.0, 4.0]), line))
            for g in (-5.0, -1.0, 0.5)
        ]

    symbols = "C_b, each token by its own distance"
    return Attack("spectral.direct", "spectral", symbols, box.low, box.high, evaluate, starts, 1200)


def _value() -> Attack:
    box = _drawn()

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        block = _block(box.cut(genes))
        return Attained(lower(norm(weighted(block.shares, block.residuals))), float(block.value_term()[0, 0]))

    def starts() -> Sequence[FloatArray]:
        rest = {"off": 0.0, "log_delta": 0.0, "values": 0.0}
        return [
            box.point(log_shares=-1.0, residuals=ALIKE / 4.0, **rest),
            box.point(log_shares=[0.0, -6.0, -6.0, -6.0], residuals=0.5, **rest),
        ]

    return Attack("spectral.value", "spectral", "U_b", box.low, box.high, evaluate, starts, 800)


def _weight() -> Attack:
    box = _drawn()

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        block = _block(box.cut(genes))
        left = total(a * (-e).exp() for a, e in zip(block.shares, block.errors, strict=True))
        # a lower bound is violated where it is above the truth
        return Attained(float(block.weight()[0, 0]), upper(left))

    def starts() -> Sequence[FloatArray]:
        rest = {"values": 0.0, "residuals": 0.0}
        return [box.point(log_shares=-1.0, off=1.0, log_delta=g, **rest) for g in (-5.0, -1.0, 0.5)]

    return Attack("spectral.weight", "spectral", "D_b, from below", box.low, box.high, evaluate, starts, 800)


def _head() -> Attack:
    """Two blocks of two tokens: the terms of spectral in the quotient."""
    box = _drawn().add("anchor", CHANNELS, -4.0, 4.0).add("stray", CHANNELS, -0.5, 0.5)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        executed = normalised(balls(10.0 ** part["log_shares"]))
        errors = balls(part["off"] * 10.0 ** part["log_delta"])
        values, residuals = (part[name].reshape(TOKENS, CHANNELS) for name in ("values", "residuals"))
        all_values = [balls(v) for v in values]
        attended = minus(weighted(executed, all_values), weighted(executed, [balls(e) for e in residuals]))
        output = balls([float(x.mid()) + s for x, s in zip(attended, part["stray"], strict=True)])
        exact = weighted(normalised([a * (-e).exp() for a, e in zip(executed, errors, strict=True)]), all_values)
        anchor, size = balls(part["anchor"]), TOKENS // BLOCKS
        cuts = [slice(b * size, (b + 1) * size) for b in range(BLOCKS)]
        blocks = [Block(executed[b], errors[b], values[b], residuals[b]) for b in cuts]
        keys = np.concatenate([block.key_term(anchor, output, apart=True) for block in blocks], axis=-1)
        bound = quotient.quotient(
            key_terms=keys,
            pure_key_terms=keys,
            value_terms=np.concatenate([block.value_term() for block in blocks], axis=-1),
            weight_lb=np.concatenate([block.weight() for block in blocks], axis=-1),
            accumulation_ub=np.array([upper(norm(minus(output, attended)))]),
            hull_ub=np.array([largest_ub(norm(minus(v, output)) for v in all_values)]),
        )
        return Attained(lower(norm(minus(exact, output))), float(bound.bound[0]))

    def starts() -> Sequence[FloatArray]:
        two_sided = [3.0, 1.0, 3.0, 1.0, -3.0, -1.0, -3.0, -1.0]
        points = []
        for log_delta in (-5.0, -3.0):
            for residual, stray in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)):
                points.append(
                    box.point(
                        log_shares=-1.0,
                        off=[-1.0, -1.0, 1.0, 1.0],
                        log_delta=log_delta,
                        values=two_sided,
                        residuals=np.tile([residual, residual / 3.0], TOKENS),
                        anchor=0.0,
                        stray=[-stray, -stray / 3.0],
                    )
                )
        return points

    symbols = "spectral terms: sum C_b + sum U_b + eps_acc over sum D_b"
    return Attack("quotient.head", "quotient", symbols, box.low, box.high, evaluate, starts, 1200)


def _operator(keys: str) -> Attack:
    tokens = channels = 4
    box = Box().add("keys", tokens * channels, -4.0, 4.0).add("query", channels, -4.0, 4.0).add("log_scale", 1, -3, 1)
    fmt = key_format(keys)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        scale = float(10.0 ** part["log_scale"][0])
        q = part["query"].astype(np.float32).astype(np.float64)
        if not np.abs(q).max() > 0.0:
            return NOTHING
        original = to_type(part["keys"].reshape(tokens, channels), "float16")
        encoded = fmt.encode(original)
        query = [Fraction(x) for x in q.tolist()]
        residual = differences(rational(original), meaning(encoded))
        errors = [sum((x * e for x, e in zip(query, row, strict=True)), Fraction(0)) for row in residual]
        known = annotate_keys(original, encoded, fmt).relative_operator_ub.astype(np.float64)[None]
        bound = score_error.measured_operator(scale, q[None], step_per_channel(encoded)[None], known)
        return Attained(lower(arb(scale) * ball(sum((e * e for e in errors), Fraction(0))).sqrt()), float(bound[0, 0]))

    def starts() -> Sequence[FloatArray]:
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        return [box.point(keys=half_steps(signs), query=signs, log_scale=0.0)]

    name = f"score_error.operator_{keys.replace('-', '_')}"
    symbols = f"|scale| ||X[s q]|| over the block, {keys}"
    return Attack(name, "score_error", symbols, box.low, box.high, evaluate, starts, 600, reproduces=STORED)


def attacks() -> list[Attack]:
    """All of this file."""
    return [
        _sums(
            "first",
            "D1(beta)",
            lambda b, x: total(w * e for w, e in zip(b, x, strict=True)),
        ),
        _sums("root", "D2(beta)", lambda b, x: norm(w * e for w, e in zip(b, x, strict=True))),
        _sums(
            "second",
            "S2(beta)",
            lambda b, x: total(w * e * e for w, e in zip(b, x, strict=True)),
        ),
        _key("alike", "C_b, every token alike", apart=False),
        _key("apart", "C_b, the heaviest token apart or alike", apart=True),
        _direct(),
        _value(),
        _weight(),
        _head(),
        *(_operator(keys) for keys in ("int8", "int8-paper")),
    ]
