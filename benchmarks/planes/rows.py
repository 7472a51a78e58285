"""Rows of the result file: one source, one system, one tolerance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import table
from benchmarks.planes.measure import Measured, Source, System, always_read, mean


@dataclass(frozen=True)
class Row:
    """One row; shares are of 16-bit bytes, or of coded blocks; means over head-steps.

    Attributes
    ----------
    run, commit, versions : str
        When (UTC), of which commit ("+": with changes), with what.
    source, head, tokens, head_dim, system, keys, values, planes, tolerance
        What was run; ``planes`` is where planes lie.
    head_steps, violations, rung_3 : int
    base, device : float
        Read by every pass; held by the device, annotations and planes on the device included.
    fetched, fetched_max : float
        From host memory.
    plane_bytes : float
        Of planes, wherever they lie.
    key_planes, key_originals, value_planes, value_originals : float
        Blocks used at any level between, and as originals.
    """

    run: str
    commit: str
    versions: str
    source: str
    head: str
    tokens: int
    head_dim: int
    system: str
    keys: str
    values: str
    planes: str
    tolerance: float
    head_steps: int
    violations: int
    rung_3: int
    base: float
    device: float
    fetched: float
    fetched_max: float
    plane_bytes: float
    key_planes: float
    key_originals: float
    value_planes: float
    value_originals: float


def condense(origin: tuple[str, str, str], source: Source, system: System, t: float, steps: Sequence[Measured]) -> Row:
    """Make the row of one tolerance; ``origin`` is run, commit, versions."""
    base, device = always_read(system, source.k.shape[2])
    return Row(
        *origin,
        source=source.source,
        head=source.head,
        tokens=len(source.k),
        head_dim=source.k.shape[2],
        system=system.name,
        keys=system.keys,
        values=system.values,
        planes=system.place,
        tolerance=t,
        head_steps=len(steps),
        violations=sum(step.violated for step in steps),
        rung_3=sum(step.exact for step in steps),
        base=base,
        device=device,
        fetched=mean([step.fetched for step in steps]),
        fetched_max=max(step.fetched for step in steps),
        plane_bytes=mean([step.planes for step in steps]),
        key_planes=mean([sum(step.keys[:-1]) for step in steps]),
        key_originals=mean([step.keys[-1] for step in steps]),
        value_planes=mean([sum(step.values[:-1]) for step in steps]),
        value_originals=mean([step.values[-1] for step in steps]),
    )


def append(file: Path, rows: Iterable[Row]) -> None:
    """Append rows to a result file; see `table.append`."""
    table.append(file, Row, rows)


def last_run(file: Path) -> list[Row]:
    """Read the rows of the newest run."""
    return table.last_run(file, Row)
