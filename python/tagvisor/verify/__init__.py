"""Replay of vector files: what another implementation answered, against :class:`tagvisor.Pe`.

A vector file holds inputs (registers, memory, tags, instructions) and QEMU's answers, as JSON
lines. :mod:`tagvisor.verify.formats` reads and replays it, :mod:`tagvisor.verify.report` says what
came of it.
"""

from tagvisor.verify.formats import Mismatch, Tally, Vectors, verify

__all__ = ["Mismatch", "Tally", "Vectors", "verify"]
