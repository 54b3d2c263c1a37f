"""tagvisor: an executable model of Arm MTE under virtualisation.

A host with the architecture's tags, Linux's and KVM's paths around them, and a judge that knows
what every tag should be::

    >>> import tagvisor as tv
    >>> host = tv.Host(policy=tv.linux("6.12"), memory="64 MiB", swap="64 MiB")
    >>> vmm = host.process("vmm")
    >>> ram = vmm.mmap(pages=16)
    >>> vm = vmm.create_vm(mte=True)
    >>> vm.add_memslot(ipa=0x5000_0000, backing=ram)
    0
    >>> cpu = vm.vcpu()
    >>> p = cpu.irg(0x5000_0000)
    >>> cpu.stg(p)
    >>> cpu.store(p, 42)
    >>> host.evict(ram.page(0)).swap
    True
    >>> cpu.load(p)
    42
    >>> host.check()

The exceptions are listed in :mod:`tagvisor.errors`.
"""

from __future__ import annotations

from tagvisor import migration, ops
from tagvisor._native import __version__, build_info
from tagvisor.core_dump import TagSegment
from tagvisor.errors import (
    ArgumentError,
    GuestException,
    GuestExit,
    InternalError,
    LinuxError,
    MemoryFault,
    MmioAccess,
    PolicyViolation,
    RecordError,
    ScenarioError,
    SizeError,
    TagvisorError,
    TraceError,
    UnknownKnobError,
    UnknownKnobValueError,
    UnknownProfileError,
    UserSignal,
    VectorError,
)
from tagvisor.explore import Exploration, explore, forever, schedule
from tagvisor.files import File
from tagvisor.host import Host
from tagvisor.pe import Outcome, Pe
from tagvisor.policy import Knob, KnobValue, Policy, Profile, knobs, linux, policy, profiles
from tagvisor.process import Mapping, Page, Pagemap, Process
from tagvisor.swap import SwapDevice
from tagvisor.vcpu import Vcpu
from tagvisor.verdict import Step, Violation
from tagvisor.vm import Vm
from tagvisor.walk import Walk

__all__ = [
    "ArgumentError",
    "Exploration",
    "File",
    "GuestException",
    "GuestExit",
    "Host",
    "InternalError",
    "Knob",
    "KnobValue",
    "LinuxError",
    "Mapping",
    "MemoryFault",
    "MmioAccess",
    "Outcome",
    "Page",
    "Pagemap",
    "Pe",
    "Policy",
    "PolicyViolation",
    "Process",
    "Profile",
    "RecordError",
    "ScenarioError",
    "SizeError",
    "Step",
    "SwapDevice",
    "TagSegment",
    "TagvisorError",
    "TraceError",
    "UnknownKnobError",
    "UnknownKnobValueError",
    "UnknownProfileError",
    "UserSignal",
    "Vcpu",
    "VectorError",
    "Violation",
    "Vm",
    "Walk",
    "__version__",
    "build_info",
    "explore",
    "forever",
    "knobs",
    "linux",
    "migration",
    "ops",
    "policy",
    "profiles",
    "schedule",
]
