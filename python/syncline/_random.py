"""`tx.random`: the whole of `random.Random`, drawn from a mutation's seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ._core import Tx


class TxRandom(random.Random):
    """Random numbers that derive from the mutation: run again, it draws the same ones. Dead with its tx."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        super().__init__()

    def random(self) -> float:
        return self._tx._random()

    def getrandbits(self, k: int, /) -> int:
        if k < 0:
            raise ValueError("the number of bits must not be negative")
        words = (k + 63) // 64
        number = 0
        for _ in range(words):
            number = number << 64 | self._tx._random_bits()
        return number >> (64 * words - k)

    def seed(self, *args: object, **kwargs: object) -> None:
        """Has no effect: the mutation's seed is the seed."""

    def getstate(self) -> NoReturn:
        raise NotImplementedError("the state of tx.random is the mutation's seed")

    def setstate(self, state: object) -> NoReturn:
        raise NotImplementedError("the state of tx.random is the mutation's seed")
