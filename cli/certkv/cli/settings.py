"""From what the user typed to policies and formats, refused with the list of what is valid."""

from __future__ import annotations

from certkv.cli.backends.base import Formats
from certkv.reference.errors import SettingError
from certkv.reference.formats import key_format, least_block, value_format
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


def parse_formats(keys: str | None, values: str | None, block: int | None) -> Formats:
    """Check the formats' names and the block size, before any file is read.

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
    return Formats(keys, values, block)


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
