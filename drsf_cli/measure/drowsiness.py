"""Blinks, PERCLOS and yawns from how far eyes and mouth are open.

Openness is that of victims/openness.py; of the eyes it is the mean of both, as Soukupová and Čech (CVWW 2016) take it,
since people blink with both. How far open eyes are depends on the person, the camera and the aligner, so it is
measured against the person's own *open level*: the OPEN_PERCENTILE of the minute around.

    share = openness / open level                      1 is open
    closed where share < CLOSED_SHARE                  half-way from open to shut

Half-way between the open and the shut level is where Dewi et al., "Adjusting eye aspect ratio for strong eye blink
detection based on facial landmarks" (PeerJ Computer Science 8:e943, 2022), put their threshold. A shut eye has about
0.3 of the open level (an EAR of 0.1 against 0.3), half-way is 0.65.

A closure up to LONGEST_BLINK is a blink: Stern, Walrath and Goldstein, "The endogenous eyeblink" (Psychophysiology
21(1), 1984) give at most 0.5 s from the first movement to the last. A longer one is a long closure.

PERCLOS P80 is the share of a minute in which the eyes are at least 80 % closed: Wierwille et al., "Research on
vehicle-based driver status/performance monitoring" (DOT HS 808 247, 1994); Dinges and Grace, "PERCLOS"
(FHWA-MCRT-98-006, 1998). 100 % closed is the SHUT_PERCENTILE of the clip's closed rows, as no aligner puts the lids
of a shut eye into one line. Eyes that never close have a PERCLOS of 0.

A yawn is a mouth open by YAWN_OPENNESS or more for SHORTEST_YAWN or longer. Yawns take about 6 s (Provine, Ethology
72, 1986); speech opens the mouth as far for parts of a second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drsf_cli.measure.timeline import Event, Timeline
from victims.face import Array

MINUTE = 60.0
"""s: of the window in which the open level is found, and of PERCLOS."""
OPEN_PERCENTILE = 75.0
"""High enough to be the open eye's while eyes are shut half of the time, low enough not to be that of noise."""
CLOSED_SHARE = 0.65
LONGEST_BLINK = 0.5
"""s."""
P80 = 0.8
SHUT_PERCENTILE = 10.0
COVERAGE = 0.5
"""Share of a minute that must have been read for it to have a PERCLOS."""
YAWN_OPENNESS = 0.5
SHORTEST_YAWN = 2.0
"""s."""


def open_level(openness: Array, timeline: Timeline) -> Array:
    """(n,) openness of the person's open eyes around each row, from (n,) openness, NaN where it is not known.

    The window of a minute is centred on the row's second: all rows of a second share its level.
    """
    level = np.full(len(openness), np.nan)
    seconds = np.floor(timeline.starts - timeline.starts[0]).astype(int)
    edges = np.flatnonzero(np.diff(seconds, prepend=-1))
    for first, stop in zip(edges, [*edges[1:], len(level)], strict=True):
        middle = timeline.starts[0] + seconds[first] + 0.5
        window = slice(*np.searchsorted(timeline.starts, [middle - MINUTE / 2, middle + MINUTE / 2]))
        known = openness[window][np.isfinite(openness[window])]
        if len(known):
            level[first:stop] = np.percentile(known, OPEN_PERCENTILE)
    return level


def open_share(openness: Array, level: Array) -> Array:
    """(n,) openness in units of the open level; NaN in gaps."""
    return np.divide(openness, level, out=np.full(len(level), np.nan), where=level > 0)


def closures(share: Array, timeline: Timeline) -> tuple[list[Event], list[Event]]:
    """(blinks, long closures) from (n,) shares. Of a blink both ends were seen: one that a gap or the clip's end cuts
    off is neither, unless what is seen of it is too long for a blink."""
    blinks, long = [], []
    for event in timeline.runs(share < CLOSED_SHARE):
        after = event.last + 1
        whole = timeline.joined[event.first] and after < len(share) and timeline.joined[after]
        if event.duration > LONGEST_BLINK + 1e-9:
            long.append(event)
        elif whole and np.isfinite(share[event.first - 1]) and np.isfinite(share[after]):
            blinks.append(event)
    return blinks, long


def shut_share(share: Array) -> float | None:
    """Share of the open level that the person's shut eyes have; None where the eyes are never closed."""
    closed = share[share < CLOSED_SHARE]
    return float(np.percentile(closed, SHUT_PERCENTILE)) if len(closed) else None


def mostly_closed(share: Array) -> NDArray[np.bool_]:
    """(n,) whether the eyes are at least 80 % closed, P80; False in gaps, too."""
    shut = shut_share(share)
    if shut is None:
        return np.zeros(len(share), dtype=bool)
    return np.asarray(share <= shut + (1 - P80) * (1 - shut))


def perclos(share: Array, timeline: Timeline) -> Array:
    """(n,) 0..1: PERCLOS P80 of the minute that ends with each row; NaN in the first minute, and where less than
    COVERAGE of a minute was read."""
    spent = timeline.durations
    known = np.concatenate([[0.0], np.cumsum(spent * np.isfinite(share))])
    shut = np.concatenate([[0.0], np.cumsum(spent * mostly_closed(share))])
    first = np.searchsorted(timeline.starts, timeline.ends - MINUTE - 1e-6)
    rows = np.arange(1, len(share) + 1)
    read = known[rows] - known[first]
    found = (timeline.ends - timeline.starts[0] >= MINUTE - 1e-6) & (read >= COVERAGE * MINUTE)
    return np.divide(shut[rows] - shut[first], read, out=np.full(len(share), np.nan), where=found)


def yawns(mouth: Array, timeline: Timeline) -> list[Event]:
    """From (n,) openness of the mouth."""
    return [event for event in timeline.runs(mouth >= YAWN_OPENNESS) if event.duration >= SHORTEST_YAWN - 1e-9]
