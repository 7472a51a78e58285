"""Every theorem, as data. Evidence is found by the stem: see :mod:`certkv.proofs.verify.tasks`."""

from __future__ import annotations

from certkv.proofs.registry.theorem import Theorem

PAPER = "arXiv 2605.20868"
OURS = "certkv"
OSCAR = "arXiv 2605.19660"
BOUNDS = "reference/certkv/reference/bounds"
TESTS = "tests/reference"

THEOREMS: tuple[Theorem, ...] = (
    Theorem(
        id="decomposition",
        title="Two-term error identity",
        statement="The distance of any vector c from exact attention splits exactly into a key, a value and a "
        "computation term.",
        formula="O - c = (1/W) [ sum a'_t (w_t - kappa)(V_t - c) + kappa sum a'_t e_t + kappa (O_hat - c) ]",
        hypotheses=("executed weights are positive", "w_t = exp(-delta_t), W = sum a'_t w_t, e_t = V_t - V_hat_t"),
        relied_on_by=("certkv.reference.bounds.block_bound.block_bound",),
        source=f"{OURS}; sharpens the decomposition of {PAPER}, Section 4",
        reference=f"{BOUNDS}/decomposition.py",
        test=f"{TESTS}/bounds/test_decomposition.py",
    ),
    Theorem(
        id="value_blocks",
        title="Value error, block by block",
        statement="The part of the error that quantized values cause is at most the executed block masses times the "
        "largest residual norms.",
        formula="||sum a'_t (V_t - V_hat_t)|| <= sum_b rho_b eta_b <= max_b eta_b",
        hypotheses=("rho_b are the masses of the weights that multiplied the values", "eta_b is absolute"),
        relied_on_by=(
            "certkv.reference.bounds.block_bound.block_bound",
            "certkv.reference.bounds.spectral.value_terms",
        ),
        source=f"{PAPER}, Theorem 1",
        reference=f"{BOUNDS}/value_blocks.py",
        test=f"{TESTS}/bounds/test_value_blocks.py",
    ),
    Theorem(
        id="key_tv",
        title="Key error through total variation",
        statement="Two weightings of the same values give outputs at most 2 V_max times their total variation apart.",
        formula="||sum (a_t - a'_t) V_t|| <= 2 V_max TV(a, a')",
        hypotheses=("||V_t|| <= V_max",),
        relied_on_by=("certkv.reference.bounds.paper_total.total",),
        source=f"{PAPER}, Theorem 2",
        reference=f"{BOUNDS}/key_tv.py",
        test=f"{TESTS}/bounds/test_key_tv.py",
    ),
    Theorem(
        id="full_tv",
        title="Sharp total variation",
        statement="Scores off by at most Delta move a softmax by at most tanh(Delta/2) in total variation, and that is "
        "attained; the published tanh(Delta) never is.",
        formula="TV(softmax(s), softmax(s')) <= (E - 1)/(E + 1) = tanh(Delta/2), E = e^Delta",
        hypotheses=("|s_t - s'_t| <= Delta for every t",),
        relied_on_by=("certkv.reference.bounds.full_tv.sharp",),
        source=f"{OURS}; corrects {PAPER}, Appendix A",
        reference=f"{BOUNDS}/full_tv.py",
        test=f"{TESTS}/bounds/test_full_tv.py",
    ),
    Theorem(
        id="tail_tv",
        title="Sharp total variation with errors on a tail",
        statement="Where only tokens of mass alpha (under either weighting) have wrong scores, the total variation is "
        "at most tau(alpha, E), and that is attained.",
        formula="tau = alpha (1-alpha) x / (1 + alpha x) if alpha^2 x + 3 alpha <= 1, "
        "else (sqrt E - sqrt V0)^2 / (E - 1/E); x = E - 1, V0 = 1 - alpha (1 - 1/E)",
        hypotheses=("scores are equal outside the tail", "|s_t - s'_t| <= Delta on it"),
        relied_on_by=("certkv.reference.bounds.tail_tv.sharp",),
        source=f"{OURS}; sharpens {PAPER}, Appendix A",
        reference=f"{BOUNDS}/tail_tv.py",
        test=f"{TESTS}/bounds/test_tail_tv.py",
    ),
    Theorem(
        id="mass",
        title="True mass from estimated mass",
        statement="Scores that are off by at most Delta change the mass of a set by a factor of at most e^(2 Delta); a "
        "quantized query adds its own score error to Delta.",
        formula="a(S) <= e^(2 Delta) a'(S)",
        hypotheses=("|s_t - s'_t| <= Delta for every t, whatever caused the difference",),
        relied_on_by=("certkv.reference.bounds.paper_total.key_term",),
        source=f"{PAPER}, Theorem 3; its e^(3 Delta) form for quantized queries is unsound",
        reference=f"{BOUNDS}/mass.py",
        test=f"{TESTS}/bounds/test_mass.py",
    ),
    Theorem(
        id="score_error",
        title="Score errors of a coded block",
        statement="With residuals in units of the steps, a token's score error is at most the L1 and the L2 form, and "
        "the norm of the errors of a block at most the operator form, each from measured residuals.",
        formula="with X = (k_t - k_hat_t)/s over the block, q~ = |scale| s o q:  |scale q.(k_t - k_hat_t)| <= "
        "min( max|X_tc| ||q~||_1, max||X_t|| ||q~|| );  ||(scale q.(k_t - k_hat_t))_t|| <= ||X|| ||q~||",
        hypotheses=(
            "the largest element, row norm and operator norm of X were measured on what is stored, rounded up, 0/0 = 0",
        ),
        relied_on_by=("certkv.reference.steps.group.Group",),
        source=f"{OURS}; L1 is the measured form of {PAPER}, Section 4",
        reference=f"{BOUNDS}/score_error.py",
        test=f"{TESTS}/bounds/test_score_error.py",
    ),
    Theorem(
        id="weighted_sums",
        title="Weighted sums of score errors",
        statement="What is known of the largest of a block's errors and of their norm bounds their sums with "
        "non-negative weights, of first and of second order.",
        formula="sum beta |delta| <= min( Delta ||beta||_1, Omega ||beta||, top Delta + rest Omega );  "
        "||beta o delta|| <= min( top Omega, Delta ||beta|| );  "
        "sum beta delta^2 <= min( Delta^2 ||beta||_1, top Omega^2, Delta Omega ||beta|| )",
        hypotheses=("|delta_t| <= Delta, ||delta|| <= Omega", "rest is the norm of all weights but one largest, top"),
        relied_on_by=("certkv.reference.bounds.spectral.key_terms", "certkv.reference.bounds.spectral.weight_lb"),
        source=OURS,
        reference=f"{BOUNDS}/weighted_sums.py",
        test=f"{TESTS}/bounds/test_weighted_sums.py",
    ),
    Theorem(
        id="hull",
        title="The trivial bound",
        statement="Exact attention is a convex combination of the values, so no output is farther from it than from "
        "the farthest value.",
        formula="||O - c|| <= max_t ||V_t - c|| <= max_b R_b",
        hypotheses=(),
        relied_on_by=("certkv.reference.bounds.block_bound.block_bound",),
        source=OURS,
        reference=f"{BOUNDS}/hull.py",
        test=f"{TESTS}/bounds/test_hull.py",
    ),
    Theorem(
        id="block_bound",
        title="The certificate, block by block",
        statement="A head's error is bounded by its executed block masses, log-weight errors, radii and value errors.",
        formula="||O - c|| <= ( sum_b rho_b (e^Delta_b - 1) R_b + U + eps_acc ) / sum_b rho_b e^-Delta_b",
        hypotheses=(
            "|delta_t| <= Delta_b for the total log-weight error of every token of b",
            "R_b >= ||V_t - c|| for the original values of b",
            "U >= ||sum a'_t e_t||, eps_acc >= ||c - sum a'_t V_hat_t||",
        ),
        relied_on_by=("certkv.reference.steps.certify.certify",),
        source=OURS,
        reference=f"{BOUNDS}/block_bound.py",
        test=f"{TESTS}/bounds/test_block_bound.py",
    ),
    Theorem(
        id="sharp",
        title="The certificate as a root",
        statement="Taking the worst weights once, for numerator and denominator together, gives a smaller bound; for "
        "one Delta and one R it is R tanh(Delta), attained.",
        formula="sum_b rho_b max_{w = 1/E_b, E_b} (|w - kappa| R_b - lambda w) + |kappa| (U + eps_acc) <= 0  implies  "
        "||O - c|| <= lambda",
        hypotheses=(
            "those of block_bound; kappa is any number",
            "for kappa = 1 a block's share may be C_b - lambda D_b: C_b >= ||sum_b a'_t (w_t - 1)(V_t - c)||, "
            "D_b <= sum_b a'_t w_t, lambda >= 0",
        ),
        relied_on_by=("certkv.reference.steps.certify.certify", "certkv.reference.bounds.sharp.uniform"),
        source=OURS,
        reference=f"{BOUNDS}/sharp.py",
        test=f"{TESTS}/bounds/test_sharp.py",
    ),
    Theorem(
        id="spectral",
        title="The spectral certificate",
        statement="The errors of a block's tokens cannot all align with one query: operator norms of key residuals, "
        "values and value residuals bound a block's terms, the heaviest token by its own distance from the output.",
        formula="C_b = min( D1(beta), omega D2(beta) ) + psi(Delta) S2(beta) + gamma (D1(a') + psi(Delta) S2(a'));  "
        "U_b = min( sum a' eta, epsilon ||a' eta||, top + epsilon rest );  D_b = rho_b e^(-D1(a')/rho_b);  "
        "or C_b = a'_h (e^Delta - 1) ||V_h - c|| + C_b without h",
        hypotheses=(
            "|delta_t| <= Delta and ||delta|| <= Omega over the block, rounding included",
            "n_t >= ||V_t - mu||, eta_t >= ||e_t||, beta = a' n, gamma = ||c - mu||",
            "omega, epsilon >= the operator norms of the rows (V_t - mu)/n_t and e_t/eta_t, 0/0 = 0",
            "a' are the executed shares, from above; rho_b in D_b from below",
        ),
        relied_on_by=(
            "certkv.reference.steps.coded_terms.spectral_terms",
            "certkv.reference.bounds.certificate_state.CertificateState",
        ),
        source=OURS,
        reference=f"{BOUNDS}/spectral.py",
        test=f"{TESTS}/bounds/test_spectral.py",
    ),
    Theorem(
        id="quotient",
        title="From blocks to a head",
        statement="Terms of blocks, from whatever theorem, add up; their sum over that of the weights bounds a head's "
        "error, as do another proved bound and the hull, so the smallest does.",
        formula="||O - c|| <= min( (sum C_b + sum U_b + eps_acc) / sum D_b, max_b R_b )",
        hypotheses=(
            "C_b >= ||sum_b a'_t (w_t - 1)(V_t - c)||, U_b >= ||sum_b a'_t e_t||, D_b <= sum_b a'_t w_t",
            "eps_acc >= ||c - sum a'_t V_hat_t||",
        ),
        relied_on_by=("certkv.reference.steps.certify.certify", "certkv.reference.bounds.block_bound.block_bound"),
        source=OURS,
        reference=f"{BOUNDS}/quotient.py",
        test=f"{TESTS}/bounds/test_quotient.py",
    ),
    Theorem(
        id="arithmetic",
        title="Rounding of the float64 step",
        statement="Rounding of scores and exponentials is a log-weight error; rounding of sums, division and the "
        "cast of the output is eps_acc.",
        formula="|eps_t| <= gamma_{d+2} |scale| ||q|| ||k|| + u |s' - m| + 2^-49;  eps_acc <= gamma_{2N+6} M/L",
        hypotheses=(
            "IEEE 754 float64, round to nearest; sums of products in any order",
            "NumPy's exp and expm1 are within 4 ulp (tested, not proved)",
            "2^-128 <= |scale| <= 2^128, 16-bit originals, queries of at most 32 bits",
        ),
        relied_on_by=("certkv.reference.steps.certify.certify", "certkv.reference.exact.float64.attention"),
        source=OURS,
        reference=f"{BOUNDS}/arithmetic.py",
        test=f"{TESTS}/bounds/test_arithmetic.py",
    ),
    Theorem(
        id="kernel_arithmetic",
        title="Rounding of a tiled, split kernel",
        statement="From a description of a kernel: the log-weight error of every block, the accumulation term, and the "
        "effective masses from the computed ones.",
        formula="eps_0 = E |scale| ||q|| size + ln2 (u (Y + bias) + u_c Y) + (n + merges + 1) e_2 + u_P;  "
        "eps_acc = E_o mean||v|| + (E_l + (1 + E_l) e_div) ||c|| + losses",
        hypotheses=(
            "the kernel is the one that its model describes",
            "the model's constants that are assumptions (docs/SOUNDNESS.md)",
            "tiles are spread evenly over the splits; the running maximum that is kept is the rounded one",
        ),
        relied_on_by=(
            "certkv.reference.bounds.kernel_arithmetic.log_weight_error_ub",
            "certkv.reference.bounds.kernel_arithmetic.accumulation_ub",
            "certkv.reference.bounds.kernel_model.KERNELS",
        ),
        source=OURS,
        reference=f"{BOUNDS}/kernel_arithmetic.py",
        test=f"{TESTS}/bounds/test_kernel_arithmetic.py",
    ),
    Theorem(
        id="outward_fp32",
        title="The certificate in binary32",
        statement="Accumulators of non-negative terms in binary32, their quotient plus 2^-126, times 1 + 2^-12, are an "
        "upper bound; the one subtraction is guarded, arguments of exponentials are rounded up first.",
        formula="finish(A, G, U, eps, D, gamma) >= (A + gamma G + U + eps) / D for K <= 999 roundings on a path",
        hypotheses=(
            "IEEE 754 binary32, round to nearest, division and root too; flush to zero is allowed",
            "exp and expm1 within 2^-17 from 0.1 to 80 (tested, not proved)",
            "gamma and eps are upper bounds; blocks of at most 254 tokens",
            "a D that is NaN, infinite or below 2^-60 counts as 0, and the bound is infinite",
        ),
        relied_on_by=(
            "certkv.reference.bounds.outward_fp32.finish",
            "certkv.reference.bounds.outward_fp32.beta_perp_ub",
            "certkv.reference.bounds.outward_fp32.psi_ub",
        ),
        source=OURS,
        reference=f"{BOUNDS}/outward_fp32.py",
        test=f"{TESTS}/bounds/test_outward_fp32.py",
    ),
    Theorem(
        id="norms",
        title="Norms, rounded outward",
        statement="Cauchy-Schwarz and the triangle inequality in any dimension, and float64 norms that are bounds.",
        formula="|x.y| <= ||x|| ||y||;  ||x + y|| <= ||x|| + ||y||;  norm_lb(x) <= ||x|| <= norm_ub(x)",
        hypotheses=("IEEE 754 float64, round to nearest",),
        relied_on_by=("certkv.reference.numbers.error.norm_ub", "certkv.reference.numbers.error.norm_lb"),
        source=OURS,
        reference="reference/certkv/reference/numbers/error.py",
        test=f"{TESTS}/numbers/test_error.py",
    ),
    Theorem(
        id="rounding",
        title="Correctly rounded and directed conversions",
        statement="Conversions to 16 and 32 bits round once; those that round up or down never err to the other side.",
        formula="round_down(x) <= x <= round_up(x);  round_nearest(x) is the nearest, ties to even",
        hypotheses=(),
        relied_on_by=("certkv.reference.numbers.rounding", "certkv.reference.annotations.measure"),
        source=OURS,
        reference="reference/certkv/reference/numbers/rounding.py",
        test=f"{TESTS}/numbers/test_rounding.py",
    ),
    Theorem(
        id="affine",
        title="Affine encoders",
        statement="Codes are in range, decoding is exact up to one rounding, and the residual is about half a step.",
        formula="|x - (minimum + step code)| <= step (1/2 + (L + 1) 2^-23)",
        hypotheses=("binary32 arithmetic in the written order, gradual underflow",),
        relied_on_by=("certkv.reference.formats.affine",),
        source=f"{OURS}; replaces the half-step rule of {PAPER}, Section 2.3",
        reference="reference/certkv/reference/formats/affine.py",
        test=f"{TESTS}/formats/test_definition.py",
    ),
    Theorem(
        id="packing",
        title="Four-bit packing",
        statement="Packing two codes into a byte, token t beside token t + B/2, loses nothing.",
        formula="unpack(pack(codes)) = codes",
        hypotheses=("codes are 0 to 15",),
        relied_on_by=("certkv.reference.formats.packing",),
        source=OURS,
        reference="reference/certkv/reference/formats/packing.py",
        test=f"{TESTS}/formats/test_packing.py",
    ),
    Theorem(
        id="operator_norm",
        title="Operator norms from above",
        statement="The sixteenth root of the trace of the eighth power of a Gram matrix, computed in float64 with its "
        "rounding added, is at least the operator norm, and at most min(B, d)^(1/16) times it.",
        formula="||X|| <= (tr (X X^T)^8)^(1/16) <= min(B, d)^(1/16) ||X||",
        hypotheses=("products of matrices are sums of products, in any order",),
        relied_on_by=("certkv.reference.annotations.measure.rows_norm_ub",),
        source=OURS,
        reference="reference/certkv/reference/annotations/operator_norm.py",
        test=f"{TESTS}/annotations/test_operator_norm.py",
    ),
    Theorem(
        id="log_codes",
        title="One byte per token",
        statement="A log code relative to its block's maximum means at least the number that it was made from, and "
        "little more, and means the same to every decoder.",
        formula="x <= M m_(c mod 8) 2^-(16 + c div 8), at most 2^(1/8) (1 + 2^-15) x unless c = 255",
        hypotheses=("x is at most the stored maximum M, a bfloat16 number",),
        relied_on_by=("certkv.reference.annotations.values.token_annotation",),
        source=OURS,
        reference="reference/certkv/reference/annotations/log_codes.py",
        test=f"{TESTS}/annotations/test_log_codes.py",
    ),
    Theorem(
        id="rotation",
        title="The rotation and its rounding",
        statement="The normalised Sylvester matrix, in blocks as the head size's binary expansion says, is orthonormal "
        "and its own inverse; computed by butterflies it is off by so many roundings as it has levels, and two.",
        formula="H = H^T, H H = I;  ||fl(Hx) - Hx|| <= gamma_{L+2} ||x|| + sqrt(d) l, L = log2 of the largest block",
        hypotheses=(
            "IEEE 754, round to nearest, nothing overflows; l is what the last product loses to underflow",
            "head sizes up to 256; in float64 numbers are 0 or from 2^-900 to 2^1000",
        ),
        relied_on_by=(
            "certkv.reference.formats.rotation.rotate",
            "certkv.reference.formats.rotation.rotate_error_ub",
            "certkv.reference.formats.rotated.extra_roundings",
        ),
        source=f"{OURS}; the rotation is that of {OSCAR}",
        reference=f"{BOUNDS}/rotation.py",
        test=f"{TESTS}/bounds/test_rotation.py",
    ),
    Theorem(
        id="token_norm_imbalance",
        title="Norms of tokens force steps",
        statement="In a group that shares a step per channel, two tokens force steps of at least their distance, so of "
        "at least the difference of their norms, over the number of steps, in any orthonormal basis.",
        formula="||D|| >= ||k_m - k_n|| / L >= | ||k_m|| - ||k_n|| | / L;  stored: "
        "L (||D|| + h sqrt(d)) >= (1-u) (1-v)^2 ||k_m - k_n||",
        hypotheses=(
            "codes 0 to L reach every number of the group",
            "stored steps round s >= (1-v)^2 range/L down by at most u s, or h",
        ),
        relied_on_by=("certkv.reference.formats.token_norm.token_norm", "certkv.reference.formats.oscar.OscarKeys"),
        source=f"{OSCAR}; stored steps: {OURS}",
        reference=f"{BOUNDS}/token_norm_imbalance.py",
        test=f"{TESTS}/bounds/test_token_norm_imbalance.py",
    ),
    Theorem(
        id="oscar_element",
        title="Two and four bits from metadata",
        statement="A number coded with an integer zero point is within little more than half a step, and what the "
        "offset's rounding adds; scores and norms of tokens follow from element bounds.",
        formula="|x - (Z + D code)| <= (1 + 4u) (D (1/2 + slack_L + L u) + u |Z|) + (L+2) h;  "
        "|n <q~, x - x_hat>| <= n sum_c |q~_c| e_c;  ||x - x_hat|| <= sqrt(g) ||(e_1, e_2, ...)||",
        hypotheses=(
            "codes come from the stored step and offset; 2 or 4 bits (slack 2^-10, 2^-9)",
            "float16 or bfloat16, binary32 arithmetic in the written order",
        ),
        relied_on_by=("certkv.reference.formats.zero_point.quantize_zero_point",),
        source=f"{OURS}; corrects the half step of {OSCAR}",
        reference=f"{BOUNDS}/oscar_element.py",
        test=f"{TESTS}/bounds/test_oscar_element.py",
    ),
    Theorem(
        id="planes",
        title="Levels of precision",
        statement="Planes cut from an integer give it back, each level is the middle of its cell and cells lie within "
        "cells; a level's notes bound what that level means, and no other.",
        formula="join(divide(C)) = C;  code_l = C_l 2^-F + (2^-F - 2^-G)/2;  "
        "|x - (minimum + step code_l)| <= step (2^-F/2 + 2 (L+1) 2^-24)",
        hypotheses=(
            "planes of 1, 2, 4 or 8 bits, at most 24 in all over a base of at most 8",
            "where a norm multiplies steps: at most 16 bits with the base, so that decoding rounds once",
        ),
        relied_on_by=(
            "certkv.reference.formats.planes.divide",
            "certkv.reference.formats.planes.join",
            "certkv.reference.formats.planes.real_codes",
            "certkv.reference.annotations.levels",
        ),
        source=OURS,
        reference=f"{BOUNDS}/planes.py",
        test=f"{TESTS}/bounds/test_planes.py",
    ),
    Theorem(
        id="annotations",
        title="Annotations bound what was stored",
        statement="What is written beside a block bounds its residuals against the exact meaning of the stored bits.",
        formula="eta_b >= max_t ||V_t - V_hat_t||, and so on for every annotation; lower bounds from below",
        hypotheses=("the decode error that a format states is one",),
        relied_on_by=("certkv.reference.steps.certify", "certkv.reference.steps.group.Group"),
        source=OURS,
        reference="reference/certkv/reference/annotations/measure.py",
        test=f"{TESTS}/annotations/test_annotations.py",
    ),
    Theorem(
        id="softmax_state",
        title="Softmax states merge",
        statement="States (m, l, o) of disjoint sets of tokens merge associatively, commutatively, with an identity.",
        formula="x e^m is additive for x = l, o",
        hypotheses=(),
        relied_on_by=("certkv.reference.softmax_state.SoftmaxState",),
        source=OURS,
        reference="reference/certkv/reference/softmax_state.py",
        test=f"{TESTS}/test_softmax_state.py",
    ),
    Theorem(
        id="certificate_state",
        title="Certificates merge",
        statement="What a block adds to the spectral certificate is homogeneous in its weights, so that of a "
        "whole is merged from those of its parts, in any order and grouping.",
        formula="x e^m is additive for x = l, o, A, G, U, D;  ||O - c|| <= ( A + gamma G + U + l eps_acc ) / D",
        hypotheses=(
            "each block is in one part (otherwise the bound is another one, and larger)",
            "all six are multiplied with the same computed factors",
            "errors of the factors are part of the log-weight errors",
        ),
        relied_on_by=("certkv.reference.bounds.certificate_state.CertificateState",),
        source=OURS,
        reference=f"{BOUNDS}/certificate_state.py",
        test=f"{TESTS}/bounds/test_certificate_state.py",
    ),
    Theorem(
        id="correction",
        title="Incremental correction",
        statement="Replacing a block's weights and values in a softmax state equals computing the state anew, up to "
        "rounding relative to what was there before; within a constant where a quarter of the denominator is kept; "
        "over several rounds and any change of weights, within what each round took out and put in.",
        formula="l += sum (p - p'), o += sum (p - p') v_hat + sum p (v - v_hat);  "
        "|l_new - L| <= g ( sum p' + sum |p - p''| ) + r sum p'';  "
        "||fl(o_new/l_new) - O/L|| <= (21 g + 10 r)(V_hat + eta) if l_new >= l_old / 4;  "
        "e += (g + r)(sum a + sum b) each round, ||o/l - O/L|| <= (e_o + ||o/l|| e_l)/(l - e_l)",
        hypotheses=(
            "both weights are relative to the same maximum",
            "old weights computed again, p'', are within r of the p' inside the state",
            "g = gamma_{K+n+3} counts the roundings on every path; for the constant, g and r are at most 1/32",
        ),
        relied_on_by=(
            "certkv.reference.correction.correct",
            "certkv.reference.correction.must_recompute",
            "certkv.reference.correction_rounding.rounding_ub",
            "certkv.reference.correction_rounding.kept_rounding_ub",
            "certkv.reference.correction_carried.output_ub",
            "certkv.reference.correction_carried.must_recompute",
        ),
        source=OURS,
        reference="reference/certkv/reference/correction.py",
        test=f"{TESTS}/test_correction.py",
    ),
    Theorem(
        id="greedy",
        title="Greedy choice is smallest",
        statement="Taking the largest gains first removes enough with the fewest items; taking the largest gains per "
        "cost first, at less than the lowest cost and one item, or one step between levels.",
        formula="no smaller set of items sums to the need; cost(greedy) < cost(cheapest) + cost(one item)",
        hypotheses=("gains are non-negative", "costs are positive, and rise with the level"),
        relied_on_by=(
            "certkv.reference.selection.greedy.largest_until",
            "certkv.reference.selection.greedy.cheapest_until",
            "certkv.reference.selection.greedy.cheapest_levels",
        ),
        source=OURS,
        reference="reference/certkv/reference/selection/greedy.py",
        test=f"{TESTS}/selection/test_greedy.py",
    ),
    Theorem(
        id="tolerance",
        title="Tolerances mean what they say",
        statement="A bound within t/(1+t) of the output's norm keeps the error within t of the exact norm.",
        formula="error <= t/(1+t) ||output||  implies  error <= t ||O||",
        hypotheses=("t >= 0",),
        relied_on_by=("certkv.reference.steps.tolerance.tolerance",),
        source=OURS,
        reference="reference/certkv/reference/steps/tolerance.py",
        test=f"{TESTS}/test_step.py",
    ),
    Theorem(
        id="ladder",
        title="Every step ends well",
        statement="From every state a step ends in a bounded output, the originals' output or an error, in finitely "
        "many rounds; no NaN is accepted.",
        formula="accept iff bound <= tolerance and every check held",
        hypotheses=(),
        relied_on_by=("certkv.reference.ladder.next_action",),
        source=f"{OURS}; the contract of {PAPER}, Section 3",
        reference="reference/certkv/reference/ladder.py",
        test=f"{TESTS}/test_ladder.py",
    ),
    Theorem(
        id="cache_life",
        title="The life of a cache",
        statement="Tokens are kept, each block is encoded once, codes never change, and every read is the block asked "
        "for or an error.",
        formula="read(b) in {original(b), error}",
        hypotheses=(),
        relied_on_by=("certkv.reference.cache",),
        source=OURS,
        reference="reference/certkv/reference/cache/cache.py",
        test=f"{TESTS}/cache/test_cache.py",
    ),
    Theorem(
        id="step",
        title="The contract of one step",
        statement="For every head the returned bound is at least the output's distance from exact attention; under "
        "a budget it is at most the tolerance or the head came from the originals.",
        formula="||output - exact(q, K, V)|| <= bound",
        hypotheses=("everything the other theorems assume",),
        relied_on_by=("certkv.reference.step.decode",),
        source=OURS,
        reference="reference/certkv/reference/step.py",
        test=f"{TESTS}/test_step.py",
    ),
)
