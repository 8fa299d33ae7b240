"""Random numbers that are a function of a key, so that any moment of any clip can be drawn on its own.

A generator with a state would have to be run from the start of a clip to know its tenth hour. Here every
value is hashed from (seed, key, key, ...) with the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014), and everything that drifts is a sum of sines.
"""

from __future__ import annotations

import math
from functools import lru_cache

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def hashed(seed: int, *keys: int) -> int:
    """64 bits that depend on every one of the keys and on their order."""
    state = seed & _MASK
    for key in keys:
        state = (state ^ (key & _MASK)) + _GOLDEN & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def uniform(low: float, high: float, seed: int, *keys: int) -> float:
    """A number in [low, high), the same for the same keys."""
    return low + (high - low) * (hashed(seed, *keys) >> 11) / float(1 << 53)


def normal(seed: int, *keys: int) -> float:
    """A number of the standard normal distribution, the same for the same keys (Box and Muller)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(0.0, 1.0, seed, *keys, 1)))
    return radius * math.cos(uniform(0.0, 2.0 * math.pi, seed, *keys, 2))


@lru_cache(maxsize=256)
def _waves(fastest_s: float, slowest_s: float, seed: int, key: int) -> tuple[tuple[float, float, float], ...]:
    """Strength, radians a second and phase of each sine of `wander`."""
    ratio = slowest_s / fastest_s
    waves = []
    for wave in range(5):
        period = fastest_s * ratio ** ((wave + uniform(0.1, 0.9, seed, key, wave, 0)) / 5.0)
        phase = uniform(0.0, 2.0 * math.pi, seed, key, wave, 1)
        waves.append(((0.25 + 0.08 * wave) / 1.4, 2.0 * math.pi / period, phase))
    return tuple(waves)


def wander(time_s: float, fastest_s: float, slowest_s: float, seed: int, key: int) -> float:
    """A value that drifts within about -1..1 and does not repeat within days.

    Five sines whose periods lie between `fastest_s` and `slowest_s`, drawn from the key so that no two are in a
    simple ratio; the slow ones are the strong ones.
    """
    waves = _waves(fastest_s, slowest_s, seed, key)
    return sum(strength * math.sin(speed * time_s + phase) for strength, speed, phase in waves)
