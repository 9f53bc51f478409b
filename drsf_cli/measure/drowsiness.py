"""Blinks, PERCLOS and yawns from how far eyes and mouth are open.

Openness is that of victims/openness.py. The eyes' openness is the mean of both eyes, as in Soukupová and Čech (CVWW
2016), because people blink with both. How large the openness of open eyes is depends on the person, the camera and the
aligner, so it is compared with the person's own *open level*: the OPEN_PERCENTILE of the surrounding openness.

    share = openness / open level                      1 is open

How far the share falls when the eyes shut depends on the aligner: to 0.3 if it follows the lids well, to 0.85 if it
hardly does. So this is found in the clip: the *shut share* is the SHUT_PERCENTILE of the minima of all dips that stand
out from the noise. Eyes count as closed from half-way down,

    closed where share < (1 + shut share) / 2

as in Dewi et al., "Adjusting eye aspect ratio for strong eye blink detection based on facial landmarks" (PeerJ Computer
Science 8:e943, 2022). Blinks are found against the open level of the surrounding NEAR seconds, which follows a head
that turns. Eyes also count as closed below CLOSED_SHARE of the open level of the surrounding minute, so that a closure
of many seconds is found too. Closures less than SEPARATION apart are one: lids need longer to open and to shut again,
so what lies between is noise, and Nyström et al., "What is a blink? Classifying and characterizing blinks in eye
openness signals" (Behavior Research Methods, 2024) join blinks within 100 ms likewise.

A closure from SHORTEST_BLINK to LONGEST_BLINK is a blink. Lids take about 0.2 s to close and to open again (Caffier,
Erdmann and Ullsperger, European Journal of Applied Physiology 89, 2003), so they are more than half-way down for about
0.1 s, and what lasts half of that is noise. Stern, Walrath and Goldstein, "The endogenous eyeblink" (Psychophysiology
21(1), 1984) give at most 0.5 s from the first movement to the last. A longer closure is a long one.

PERCLOS P80 is the share of a minute in which the eyes are at least 80 % closed: Wierwille et al., "Research on
vehicle-based driver status/performance monitoring" (DOT HS 808 247, 1994); Dinges and Grace, "PERCLOS"
(FHWA-MCRT-98-006, 1998). The shut share counts as 100 % closed, and eyes that never close have a PERCLOS of 0. If the
shut share is over FOLLOWED, 80 % cannot be told from a turn of the head, and there is no PERCLOS.

A yawn is a mouth open by YAWN_OPENNESS or more for SHORTEST_YAWN or longer. Yawns take about 6 s (Provine, Ethology
72, 1986); speech opens the mouth as far for parts of a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsf_cli.measure.timeline import Event, Timeline
from victims.face import Array

MINUTE, NEAR = 60.0, 3.0
"""s: windows of the open level. The first is also PERCLOS's window; the second is six times the longest blink."""
OPEN_PERCENTILE = 75.0
"""High enough to be the open eye's even if the eyes are shut half of the time, low enough not to follow noise."""
CLOSED_SHARE = 0.65
"""Half-way between an open eye with an EAR of 0.3 and a shut one with 0.1."""
SHUT_PERCENTILE = 10.0
LEAST_DIP, NOISE = 0.05, 5.0
"""A dip stands out from the noise if it is deeper than this share and than so many standard deviations."""
SHORTEST_BLINK, LONGEST_BLINK = 0.05, 0.5
"""s."""
SEPARATION = 0.1
"""s."""
P80, FOLLOWED = 0.8, 0.6
COVERAGE = 0.5
"""Share of a minute that must have been read for it to have a PERCLOS."""
YAWN_OPENNESS = 0.5
SHORTEST_YAWN = 2.0
"""s."""


@dataclass(frozen=True, eq=False)
class Eyelids:
    """The movement of the lids in a clip of n rows."""

    open_level: Array
    """(n,) openness of the person's open eyes in the minute around."""
    share: Array
    """(n,) openness in units of that level; NaN in gaps."""
    closed: NDArray[np.bool_]
    """(n,)."""
    shut_share: float | None
    """None where the eyes never close."""
    blinks: list[Event]
    long_closures: list[Event]

    @property
    def followed(self) -> bool:
        """Whether lids move far enough for a PERCLOS."""
        return self.shut_share is None or self.shut_share <= FOLLOWED


def eyelids(openness: Array, timeline: Timeline) -> Eyelids:
    """From (n,) openness, NaN where it is not known.

    Both ends of a blink must be seen: a closure that a gap or the clip's end cuts off is not a blink, and it is a long
    closure only if the part that was seen is too long for a blink.
    """
    level = open_level(openness, timeline, MINUTE)
    share, near = openness / level, openness / open_level(openness, timeline, NEAR)
    shut, limit = _shut_share(near, timeline)
    closed = _without_blips((near < limit) | (share < CLOSED_SHARE), np.isfinite(share), timeline)
    blinks, long = [], []
    for event in timeline.runs(closed):
        if event.duration > LONGEST_BLINK + 1e-9:
            long.append(event)
        elif event.duration > SHORTEST_BLINK - 1e-9 and _both_ends_seen(event, share, timeline):
            blinks.append(event)
    return Eyelids(level, share, closed, shut, blinks, long)


def _without_blips(closed: NDArray[np.bool_], known: NDArray[np.bool_], timeline: Timeline) -> NDArray[np.bool_]:
    """`closed` (n,), also where eyes are seen to be open for less than SEPARATION between two closures."""
    bridged = closed.copy()
    for event in timeline.runs(~closed & known):
        after = event.last + 1
        between = timeline.joined[event.first] and after < len(closed) and timeline.joined[after]
        if between and closed[event.first - 1] and closed[after] and event.duration < SEPARATION - 1e-9:
            bridged[event.rows] = True
    return bridged


def _both_ends_seen(event: Event, share: Array, timeline: Timeline) -> bool:
    after = event.last + 1
    if not timeline.joined[event.first] or after == len(share) or not timeline.joined[after]:
        return False
    return bool(np.isfinite(share[event.first - 1]) and np.isfinite(share[after]))


def open_level(openness: Array, timeline: Timeline, window: float) -> Array:
    """(n,) OPEN_PERCENTILE of the openness in the `window` seconds around each row.

    It is computed in steps of a fifteenth of the window, a second at most, and is the same for all rows of a step; NaN
    where nothing is known or eyes have no height.
    """
    step = min(1.0, window / 15)
    level = np.full(len(openness), np.nan)
    steps = np.floor((timeline.starts - timeline.starts[0]) / step + 1e-6).astype(int)
    edges = np.flatnonzero(np.diff(steps, prepend=-1))
    for first, stop in zip(edges, [*edges[1:], len(level)], strict=True):
        middle = timeline.starts[0] + (steps[first] + 0.5) * step
        around = openness[slice(*np.searchsorted(timeline.starts, [middle - window / 2, middle + window / 2]))]
        known = around[np.isfinite(around)]
        if len(known):
            level[first:stop] = np.percentile(known, OPEN_PERCENTILE)
    return np.where(level > 0, level, np.nan)


def _shut_share(share: Array, timeline: Timeline) -> tuple[float | None, float]:
    """The shut share, and the share below which eyes are closed; None and 0 if no dip stands out.

    The noise is estimated from second differences, which a slow turn of the head does not affect. For white noise their
    standard deviation is √6 times its own, and the median of their absolute values is 0.6745 times that.
    """
    second = np.abs(share[:-2] - 2 * share[1:-1] + share[2:])
    second = second[np.isfinite(second)]
    noise = float(np.median(second)) / 0.6745 / np.sqrt(6) if len(second) else 0.0
    margin = max(LEAST_DIP, NOISE * noise)
    minima = [np.min(share[event.rows]) for event in timeline.runs(share < 1 - margin)]
    if not minima:
        return None, 0.0
    shut = float(np.percentile(minima, SHUT_PERCENTILE))
    return shut, min((1 + shut) / 2, 1 - margin)


def mostly_closed(lids: Eyelids) -> NDArray[np.bool_]:
    """(n,) whether the eyes are at least 80 % closed, P80; also False in gaps."""
    if lids.shut_share is None:
        return np.zeros(len(lids.share), dtype=bool)
    return np.asarray(lids.share <= lids.shut_share + (1 - P80) * (1 - lids.shut_share))


def perclos(lids: Eyelids, timeline: Timeline) -> Array:
    """(n,) 0..1: PERCLOS P80 of the minute that ends with each row.

    NaN in the first minute, where less than COVERAGE of a minute was read, and where lids are not followed.
    """
    count = len(lids.share)
    if not lids.followed:
        return np.full(count, np.nan)
    spent = timeline.ends - timeline.starts
    known = np.concatenate([[0.0], np.cumsum(spent * np.isfinite(lids.share))])
    shut = np.concatenate([[0.0], np.cumsum(spent * mostly_closed(lids))])
    first = np.searchsorted(timeline.starts, timeline.ends - MINUTE - 1e-6)
    rows = np.arange(1, count + 1)
    read = known[rows] - known[first]
    found = (timeline.ends - timeline.starts[0] >= MINUTE - 1e-6) & (read >= COVERAGE * MINUTE)
    return np.asarray(np.divide(shut[rows] - shut[first], read, out=np.full(count, np.nan), where=found))


def yawns(mouth: Array, timeline: Timeline) -> list[Event]:
    """From (n,) openness of the mouth."""
    return [event for event in timeline.runs(mouth >= YAWN_OPENNESS) if event.duration >= SHORTEST_YAWN - 1e-9]
