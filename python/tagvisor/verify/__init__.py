"""Replay of vector files: what another implementation answered, against :class:`tagvisor.Pe`.

A vector file holds inputs (registers, memory, tags, instructions) and QEMU's answers, as JSON
lines. :mod:`tagvisor.verify.rows` reads it, :mod:`tagvisor.verify.formats` replays it,
:mod:`tagvisor.verify.replay` judges the answers, :mod:`tagvisor.verify.report` says what came of
it.
"""

from tagvisor.verify.formats import verify
from tagvisor.verify.replay import Mismatch, Tally
from tagvisor.verify.rows import Vectors

__all__ = ["Mismatch", "Tally", "Vectors", "verify"]
