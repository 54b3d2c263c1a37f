"""Recorded workloads: the trace file and how one is made.

``tagvisor.trace.record`` runs a real program and records its loads, stores and heap events;
``tagvisor.trace.format`` reads and writes the file they are kept in.
"""
