"""What the settings of a run say, parsed and checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attacks.budget import parse_eps
from attacks.codec import find_codec
from attacks.effort import Effort, find_effort
from attacks.obscure import Obscuring, parse_obscuring, warning
from attacks.perturb import AttackSettings
from attacks.steps import find_method, parse_options
from drsf_cli.deid.survey import Whose
from drsf_cli.settings import DeidSettings
from victims.track import parse_region
from weights.errors import UsageError

DEFAULT_RULE = "sgd"
"""The rule of steps where none is named (docs/measurements/attack.md compares them)."""


@dataclass(frozen=True)
class Plan:
    """Settings, parsed and checked."""

    obscuring: Obscuring
    attack: AttackSettings | None
    effort: Effort
    whose: Whose
    warnings: tuple[str, ...]
    """What is allowed and unwise, a sentence each."""


def check(settings: DeidSettings) -> Plan:
    """Parse what the settings say. Raises UsageError naming the flag."""
    for flag, value, low in (
        ("--batch-size", settings.batch_size, 1),
        ("--threads", settings.threads, 1),
    ):
        if value is not None and value < low:
            raise UsageError(f"{flag} {value} is too small; it takes {low} or more.")
    if not settings.max_gap >= 0:
        raise UsageError(f"--max-gap {settings.max_gap} is not a time; give seconds from 0 on.")
    if not 0 < settings.segment < math.inf:
        raise UsageError(f"--segment {settings.segment} is not a time; give seconds above 0.")
    if settings.max_error is not None and not settings.max_error > 0:
        raise UsageError(f"--max-error {settings.max_error} is not a number above 0.")
    if not 0 <= settings.crf <= 51:
        raise UsageError(f"--crf {settings.crf} is out of range; it takes 0 (best) to 51 (worst).")
    if not -20 <= settings.head_qp <= 0:
        raise UsageError(f"--head-qp {settings.head_qp} is out of range; it takes -20 (finest) to 0 (as the rest).")
    find_codec(settings.codec)
    if settings.audit not in ("file", "full"):
        raise UsageError(f"--audit {settings.audit} is unknown; it takes file or full.")
    for region in settings.regions:
        parse_region(region)
    if settings.shape not in ("own", "average"):
        raise UsageError(f"--shape {settings.shape} is unknown; it takes own or average.")
    if settings.shape == "average" and settings.victims.aligner is None:
        raise UsageError(
            "--shape average is for landmarks, and none are embedded without an aligner; name one with -a."
        )
    if settings.targets is not None and settings.embed != DeidSettings.embed:
        raise UsageError("--embed goes without --targets, which says itself whose attributes are embedded.")
    obscuring = parse_obscuring(settings.mask)
    weak = warning(obscuring)
    effort = find_effort(settings.effort)
    return Plan(obscuring, _attack(settings, effort), effort, _whose(settings.embed), () if weak is None else (weak,))


def _attack(settings: DeidSettings, effort: Effort) -> AttackSettings | None:
    eps = parse_eps(settings.eps)
    typed = settings.attack
    if typed is not None and typed.strip().lower() == "none":
        if settings.targets is not None or settings.shape != "own":
            flag = "--targets" if settings.targets is not None else "--shape"
            raise UsageError(
                f"{flag} is for what is embedded, and --attack none embeds nothing; leave one of them out."
            )
        return None
    name, _ = find_method(typed or DEFAULT_RULE)
    options = parse_options(name, settings.attack_options)
    if effort.steps == 0 and (typed is not None or settings.attack_options):
        flag = "--attack" if typed is not None else "--attack-opt"
        raise UsageError(f"{flag} goes with steps, and --effort {settings.effort} takes none; leave one of them out.")
    return AttackSettings(
        name, eps, effort.steps, options, extra=effort.extra, tries=effort.tries, behind=effort.behind
    )


def _whose(text: str) -> Whose:
    word = text.strip().lower()
    if word == "largest":
        return "largest"
    if word == "all":
        return "all"
    try:
        x, y = (float(part) for part in word.split(","))
    except ValueError:
        raise UsageError(f"--embed {text!r} is neither largest nor all nor a point x,y in px.") from None
    return x, y
