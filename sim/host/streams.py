"""Random numbers: a stream of its own for each entity and purpose, named by both and never by the strategy.

So every strategy meets the same guests, exits and wake-ups, and what one thread draws does not depend on when another
one draws.  Numbers are drawn in blocks; a block's size does not change the sequence.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.scenario.distribution import Distribution

Cycles = NDArray[np.int64]
Sample = Callable[[int], Cycles]

FIRST_BLOCK: Final = 16
LARGEST_BLOCK: Final = 512
"""The most numbers that are drawn ahead; they are Python's, 40 bytes each."""
POOL_WORDS: Final = np.random.SeedSequence().pool_size


def _words(number: int, least: int) -> bytes:
    """A whole number in words of 32 bits, the lowest first, with zeros up to the ``least`` words."""
    return number.to_bytes(4 * max(least, -(-number.bit_length() // 32)), "little")


class Streams:
    """The streams of one replication."""

    def __init__(self, seed: int, replication: int) -> None:
        self.seed = seed
        self.replication = replication

    def generator(self, *name: object) -> np.random.Generator:
        """The stream called ``name``: words like a thread's name and what is drawn."""
        digest = sha256("\x1f".join(map(str, name)).encode()).digest()
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self._entropy(digest[:16]))))

    def _entropy(self, key: bytes) -> NDArray[np.uint32]:
        """What numpy makes of SeedSequence(seed, spawn_key=(replication, *words)), which takes it ten times as long.

        It takes whole numbers apart, and puts zeros between a seed shorter than its pool and the spawn key.
        """
        return np.frombuffer(_words(self.seed, POOL_WORDS) + _words(self.replication, 1) + key, "<u4")


def sampler(
    distribution: Distribution, tsc_hz: float, stream: Callable[[], np.random.Generator], least: int = 0
) -> Sample:
    """A function that draws n times in whole TSC cycles, each at least ``least``.

    ``stream`` makes the generator, which takes long and which a constant does not need.
    """
    mean = distribution.mean * tsc_hz
    if distribution.kind == "constant":
        constant = max(round(mean), least)
        return lambda n: np.full(n, constant, dtype=np.int64)
    rng = stream()
    draw: Callable[[int], Any]
    match distribution.kind:
        case "exponential":
            draw = lambda n: rng.exponential(mean, n)  # noqa: E731
        case "lognormal":
            mu = np.log(mean) - distribution.sigma**2 / 2
            draw = lambda n: rng.lognormal(mu, distribution.sigma, n)  # noqa: E731
        case _:  # empirical
            values = np.asarray(distribution.values) * tsc_hz
            draw = lambda n: values[rng.integers(0, len(values), n)]  # noqa: E731

    def sample(n: int) -> Cycles:
        cycles: Cycles = (draw(n) + 0.5).astype(np.int64)  # times are not negative, so this rounds
        return np.maximum(cycles, least, out=cycles) if least else cycles

    return sample


def in_blocks(distribution: Distribution, tsc_hz: float, rng: np.random.Generator, rows: int) -> Sample:
    """A function that draws n times from an empirical distribution, in blocks of ``rows`` rows in their order.

    The circular block bootstrap (Politis and Romano, 1992): behind the last row comes the first.  Two distributions
    with generators of the same name draw the same rows.
    """
    values = (np.asarray(distribution.values) * tsc_hz + 0.5).astype(np.int64)
    following = np.arange(rows)
    left = np.zeros(0, np.int64)

    def sample(n: int) -> Cycles:
        nonlocal left
        starts = rng.integers(0, len(values), max(0, -(-(n - len(left)) // rows)))
        drawn = np.concatenate((left, ((starts[:, None] + following) % len(values)).ravel()))
        left = drawn[n:]
        return values[drawn[:n]]

    return sample


def in_turn(distribution: Distribution, tsc_hz: float, first: int, before: Sequence[float]) -> Sample:
    """A function that gives times ``before`` (s), and then all rows of an empirical distribution in their order, from
    row ``first`` on, again and again."""
    values = (np.asarray(distribution.values) * tsc_hz + 0.5).astype(np.int64)
    ahead = (np.asarray(before) * tsc_hz + 0.5).astype(np.int64)
    given = 0

    def sample(n: int) -> Cycles:
        nonlocal given
        numbers = np.arange(given, given + n) - len(ahead)
        given += n
        return np.where(numbers < 0, ahead[numbers.clip(max=-1)], values[(first + numbers) % len(values)])

    return sample


class Draws:
    """Numbers of one stream, one by one; ``constant`` if they are all the same."""

    __slots__ = ("_left", "_sample", "_size", "constant")

    def __init__(self, sample: Callable[[int], NDArray[Any]], constant: int | None = None) -> None:
        self._sample = sample
        self.constant = constant
        self._left: list[Any] = []
        self._size = FIRST_BLOCK

    def next(self) -> Any:
        """The next number, a Python one."""
        left = self._left
        if not left:
            left.extend(self.block(self._size)[::-1].tolist())
            self._size = min(2 * self._size, LARGEST_BLOCK)
        return left.pop()

    def block(self, n: int) -> NDArray[Any]:
        """The next ``n`` numbers of the stream, for a caller that buffers them."""
        return self._sample(n)

    def ahead(self) -> NDArray[Any]:
        """The numbers that have been drawn and not taken yet; the next of them first."""
        return np.array(self._left[::-1])


class Instants:
    """Instants with independent times between them, on some clock of whole cycles that starts at 0."""

    __slots__ = ("_i", "_last", "_sample", "_size", "_times")

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._times: list[int] = []
        self._i = 0
        self._last = 0
        self._size = FIRST_BLOCK

    @property
    def next(self) -> int:
        """The first instant that :meth:`upto` has not passed."""
        while self._i == len(self._times):
            self._times = self.block(self._size).tolist()
            self._size = min(2 * self._size, LARGEST_BLOCK)
            self._i = 0
        return self._times[self._i]

    def block(self, n: int) -> Cycles:
        """The next ``n`` instants of the stream, for a caller that buffers them."""
        times: Cycles = self._last + np.cumsum(self._sample(n))
        self._last = int(times[-1])
        return times

    def ahead(self) -> Cycles:
        """The instants that have been drawn and not passed yet."""
        return np.array(self._times[self._i :], np.int64)

    def upto(self, time: int) -> tuple[int, int]:
        """Passes all instants up to and including ``time``: how many there were, and when the last was (-1: none)."""
        count, last = 0, -1
        while self.next <= time:
            times = self._times
            i = bisect_right(times, time, self._i)
            count += i - self._i
            last = times[i - 1]
            self._i = i
        return count, last
