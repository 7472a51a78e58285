"""From what the user typed to policies and formats, refused with the list of what is valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from certkv.cli.backends.base import Backend, Formats
from certkv.reference.cache import Place
from certkv.reference.errors import SettingError
from certkv.reference.formats import (
    OSCAR_KEY_FORMATS,
    OSCAR_VALUE_FORMATS,
    PLANAR_KEY_FORMATS,
    PLANAR_VALUE_FORMATS,
    Format,
    key_format,
    least_block,
    levels_of,
    value_format,
)
from certkv.reference.policies import RELATIVE_TO, Budget, Naive, PaperPolicy, Policy

POLICIES = ("naive", "paper", "budget")
TOLERANCE = 0.05


def parse_policies(names: str, tolerance: float | None, relative_to: str | None) -> list[Policy]:
    """Make the policies.

    Parameters
    ----------
    names : str
        Comma-separated, e.g. ``"budget,paper"``.
    tolerance : float or None
    relative_to : str or None
        Both for ``budget`` alone.

    Returns
    -------
    list of Policy
        In the order given.

    Raises
    ------
    SettingError
    """
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in POLICIES:
            raise SettingError(f"--policy: unknown policy {name!r}; choose from {', '.join(POLICIES)}, comma-separated")
    if len(set(chosen)) < len(chosen):
        raise SettingError(f"--policy {names}: a policy is named twice; name each once")
    if "budget" not in chosen:
        for option, given in (("--tolerance", tolerance), ("--relative-to", relative_to)):
            if given is not None:
                raise SettingError(f"{option} is for the budget policy, which is not among --policy {names}")
    basis = next((known for known in RELATIVE_TO if known == (relative_to or "values")), None)
    if basis is None:
        raise SettingError(f"--relative-to: unknown {relative_to!r}; choose one of {', '.join(RELATIVE_TO)}")
    try:
        budget = Budget(TOLERANCE if tolerance is None else tolerance, relative_to=basis)
    except SettingError as error:
        raise SettingError(f"--tolerance: {error}") from error
    made: dict[str, Policy] = {"naive": Naive(), "paper": PaperPolicy(), "budget": budget}
    return [made[name] for name in chosen]


def parse_formats(
    keys: str | None,
    values: str | None,
    block: int | None,
    residual: int | None = None,
    planes: Place | None = None,
) -> Formats:
    """Check the formats' names, the sizes, and that planes have a format that has some, before any file is read.

    Raises
    ------
    SettingError
    """
    for option, name, find in (("--keys", keys, key_format), ("--values", values, value_format)):
        if name is not None:
            try:
                find(name)
            except SettingError as error:
                raise SettingError(f"{option}: {error}") from error
    if block is not None and block < 1:
        raise SettingError(f"--block is {block}; give at least 1 token per block")
    if block is not None and keys is not None and block < (least := least_block(key_format(keys))):
        raise SettingError(
            f"--block is {block}, but --keys {keys} has groups of {least} tokens; give --block {least}, or leave it out"
        )
    if residual is not None and residual < 1:
        raise SettingError(f"--residual is {residual}; give a whole number of blocks, of at least one")
    if residual is not None and block is not None and residual % block:
        raise SettingError(f"--residual is {residual}, but --block is {block}; give a multiple of it")
    levels = [levels_of(find(name)) for name, find in ((keys, key_format), (values, value_format)) if name is not None]
    if planes is not None and max(levels, default=1) == 1:
        given = ", ".join(f"{option} {name}" for option, name in (("--keys", keys), ("--values", values)) if name)
        raise SettingError(
            f"--planes {planes} is for formats that have refinement planes, and {given or 'the default formats'} "
            f"{'has' if given.count('--') == 1 else 'have'} none; give --keys "
            f"{_planar(PLANAR_KEY_FORMATS, OSCAR_KEY_FORMATS)}, or --values "
            f"{_planar(PLANAR_VALUE_FORMATS, OSCAR_VALUE_FORMATS)}"
        )
    return Formats(keys, values, block, residual, planes)


def _planar(*formats: Mapping[str, Format]) -> str:
    """Name the formats that have planes."""
    return ", ".join(name for some in formats for name, fmt in some.items() if levels_of(fmt) > 1)


def require_whole_blocks(formats: Formats, policies: Sequence[Policy], engine: Backend) -> None:
    """Check that the residual window is a whole number of every policy's blocks.

    Raises
    ------
    SettingError
        Naming the policy.
    """
    for policy in policies:
        made = engine.formats(policy, formats)
        if made.residual % made.block:
            raise SettingError(
                f"--residual is {made.residual}, but policy {policy.name} has blocks of {made.block} tokens; give a "
                "multiple of that, or --block"
            )


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the numbers of a comma-separated list, each at least 1.

    Raises
    ------
    SettingError
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingError(f"{option} {text}: give whole numbers, comma-separated, e.g. 8192,131072") from error
    if min(numbers) < 1:
        raise SettingError(f"{option} {text}: every number must be at least 1")
    return numbers
