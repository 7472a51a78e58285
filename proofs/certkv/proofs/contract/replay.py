"""Put what was recorded of a step through the two machines, and require that they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from certkv.proofs.contract import ladder_model, life_model
from certkv.proofs.contract.ladder_model import Order, Phase, Seen, State
from certkv.proofs.contract.life_model import Content, Life, Missing
from certkv.proofs.contract.recorder import GroupTrace, ReadEvent
from certkv.proofs.mutants.model import CheckFailed, require
from certkv.reference import Step
from certkv.reference.errors import HostMissingError
from certkv.reference.ladder import Action
from certkv.reference.numbers.types import AnyArray

Original = Callable[[Content], AnyArray]
"""From the name of a block's original to its numbers, [block, head_dim]."""


def replay_reads(life: Life, reads: Sequence[ReadEvent], original: Original) -> tuple[Life, int, Missing | None]:
    """Follow the reads of one step.

    Parameters
    ----------
    life : Life
        Before the step.
    reads : sequence of ReadEvent
    original : callable

    Returns
    -------
    life : Life
        After it.
    moved : int
        Blocks that came from the host tier and are counted as moved.
    missing : Missing or None
        What the last read did not find. Nothing may be read after it.

    Raises
    ------
    CheckFailed
        The code read something else than the machine, asked the host tier for something else, or did not notice that
        an original is missing.
    """
    moved, missing = 0, None
    for event in reads:
        require(missing is None, f"{event.through} after a read that failed with {missing}")
        where = f"{event.through} of {event.side}, KV head {event.kv_head}, blocks {event.blocks}"
        resident = {b for b in event.blocks if (event.side, event.kv_head, b) in dict(life.scratch)}
        if event.through == "fetch":
            life, read = life_model.fetch(life, event.side, event.kv_head, event.blocks)
            asked = tuple(b for b in event.blocks if b not in resident)
        else:
            read = life_model.read_host(life, event.side, event.kv_head, event.blocks)
            asked = event.blocks
        require(event.host_blocks == asked, f"{where}: the host tier was asked for {event.host_blocks}, not {asked}")
        if isinstance(read, Missing):
            require(isinstance(event.result, HostMissingError), f"{where}: {read} is missing, and nothing was said")
            missing = read
        elif isinstance(event.result, HostMissingError):
            raise CheckFailed(f"{where}: {event.result}, but nothing is missing")
        else:
            wanted = np.array([original(content) for content in read.contents]).reshape(event.result.shape)
            require(wanted.tobytes() == event.result.tobytes(), f"{where}: not the originals of these blocks")
            moved += read.moved if event.through != "host" else 0
    return life, moved, missing


def replay_ladder(trace: GroupTrace, rounds: int, ended: bool) -> dict[int, list[Seen]]:
    """Check every answer of the ladder, and who is still running when; return what each head has shown.

    Parameters
    ----------
    trace : GroupTrace
    rounds : int
        Rounds of promotion that the policy allows.
    ended : bool
        Whether the step returned, so that no head can be left in the middle.

    Raises
    ------
    CheckFailed
    """
    running = list(trace.heads)
    shown: dict[int, list[Seen]] = {head: [] for head in trace.heads}
    for number, decisions in enumerate(trace.rounds):
        require(len(decisions) == len(running) > 0, f"round {number}: {len(decisions)} decisions for heads {running}")
        following = []
        promotable = trace.promotable[number] if number < len(trace.promotable) else [True] * len(running)
        for head, (observation, action), more in zip(running, decisions, promotable, strict=True):
            seen = replace(ladder_model.abstract(observation), promotable=more)
            left = observation.rounds_left
            # where nothing is left to promote the rest of the rounds may be called off
            allowed = {rounds - number} | (set() if more else {0})
            require(left in allowed, f"head {head}: {left} rounds left, not {rounds - number}")
            wanted = ladder_model.action(seen, left)
            require(action is wanted, f"head {head}, {observation}: {action}, not {wanted}")
            shown[head].append(seen)
            if wanted is Action.REFINE and more:
                following.append(head)
        running = following
    require(not (running and ended), f"heads {running} were to be refined, and nothing followed")
    return shown


def replay_step(shown: Sequence[dict[int, list[Seen]]], rounds: int, step: Step) -> None:
    """Run the machine on what every head has shown, and compare the end with the certificate's rung.

    Raises
    ------
    CheckFailed
    """
    dense = any(seen and not seen[-1].consistent for group in shown for seen in group.values())
    for group in shown:
        for head, observations in group.items():
            state = State(Phase.ATTEND, rounds, all_readable=True)
            waiting = iter(observations)
            while state.phase not in ladder_model.LAST:
                seen = next(waiting) if state.phase is Phase.ATTEND else Seen()
                number = not bool(np.isnan(step.output[head].astype(np.float64)).any())
                state = ladder_model.transition(state, replace(seen, number=number, layer_dense=dense))
            require(state.phase is not Phase.ERROR, f"head {head} was returned, and should have been an error")
            rung = int(step.certificate.rung[head])
            allowed = _rungs(state)
            require(rung in allowed, f"head {head} is at rung {rung}, and the machine at one of {allowed}")
            if rung <= 2:
                last = observations[-1]
                require(last.bound is Order.AT_MOST, f"head {head} was accepted without a bound that fits")


def _rungs(state: State) -> tuple[int, ...]:
    if state.phase is Phase.DENSE:
        return (4,)
    return (3,) if state.backing is ladder_model.Backing.ORIGINALS else (0, 1, 2)
