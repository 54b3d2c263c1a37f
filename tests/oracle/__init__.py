"""A second model of the architecture for the tests to compare against, written to be read.

Allocation-tag arithmetic (`tags`), memory attributes (`attributes`), the two-stage VMSAv8-64 walk
(`walker`), the encodings of the instructions of interest (`insns`) and one step of a machine that
executes them (`step`), as plain Python over integers and dictionaries. It leaves out everything
else (time, other observers, TLBs, EL2 as the level that executes) and shares no code with the
package under test. `vectors` replays recorded answers of another emulator against it.
"""
