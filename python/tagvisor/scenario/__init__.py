r"""Scenario scripts: a command a line in, an answer a line out, as a real kernel answers.

::

    >>> from tagvisor import scenario
    >>> scenario.run_text("mmap A anon 1 mte\nstg A 0 5 f\nldg A 0 5\n")[2]
    {'i': 2, 'who': 'p', 'cmd': 'ldg A 0 5', 'tag': 'f'}

Models the scenario language in which answers of real kernels are recorded:
:mod:`~tagvisor.scenario.parser` reads it, :mod:`~tagvisor.scenario.interpreter` executes it,
:mod:`~tagvisor.scenario.answers` writes what compares, :mod:`~tagvisor.scenario.compare` compares
it with another's answers.
"""

from tagvisor.scenario.answers import Answer, json_lines
from tagvisor.scenario.interpreter import judge, judge_text, run, run_text
from tagvisor.scenario.parser import parse

__all__ = ["Answer", "json_lines", "judge", "judge_text", "parse", "run", "run_text"]
