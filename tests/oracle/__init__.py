"""A second model of the architecture for the tests to compare against, written to be read.

It models the arithmetic of allocation tags (`oracle.tags`) and the two-stage VMSAv8-64 walk
(`oracle.walker`) as plain Python over integers and dictionaries. It leaves out everything else
(tag memory, checks, instruction decoding, TLBs) and shares no code with the package under test.
"""
