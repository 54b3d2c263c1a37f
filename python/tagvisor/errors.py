"""Every exception tagvisor raises.

::

    Exception
    └── TagvisorError
        ├── ArgumentError (also a ValueError)   an argument that cannot be
        │   ├── SizeError                       a number of bytes that cannot be
        │   ├── UnknownProfileError             no policy profile of that name
        │   ├── UnknownKnobError                no policy knob of that name
        │   └── UnknownKnobValueError           the knob has no such value
        ├── LinuxError                          a system call or ioctl was refused
        ├── UserSignal                          a process's access ended in a signal
        ├── GuestException                      a guest's access took an exception to EL1
        ├── GuestExit                           a guest's access left KVM_RUN
        ├── PolicyViolation                     a property of tagged memory does not hold
        ├── ScenarioError                       a scenario script that cannot be run
        ├── TraceError                          a trace file that cannot be read
        ├── VectorError                         a vector file that cannot be replayed
        ├── RecordError                         a program that could not be recorded
        └── InternalError                       a fault of tagvisor itself

A mistake of the caller is told in one line that names what was given and what would be right. What
the modelled system answers (a refused call, a signal, an exception) is not a mistake: those
exceptions carry the answer in the kernel's and the architecture's own terms.

Every exception pickles: ``args`` equals the arguments of its constructor, so it crosses a process
boundary with its fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tagvisor.verdict import Violation

__all__ = [
    "ArgumentError",
    "GuestException",
    "GuestExit",
    "InternalError",
    "LinuxError",
    "MemoryFault",
    "MmioAccess",
    "PolicyViolation",
    "RecordError",
    "ScenarioError",
    "SizeError",
    "TagvisorError",
    "TraceError",
    "UnknownKnobError",
    "UnknownKnobValueError",
    "UnknownProfileError",
    "UserSignal",
    "VectorError",
]


class TagvisorError(Exception):
    """The base of all: ``except TagvisorError`` catches what tagvisor raises on purpose."""


class ArgumentError(TagvisorError, ValueError):
    """An argument that cannot be.

    Args:
        argument: Its name, as the caller wrote it.
        value: Its value.
        expected: What would be right, in words that complete "expected ...".
    """

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(argument, value, expected)
        self.argument = argument
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.argument}={self.value!r}: expected {self.expected}"


class SizeError(ArgumentError):
    """A size in bytes that cannot be: negative, not a whole number of pages, or too large."""


class UnknownProfileError(ArgumentError):
    """No policy profile of that name; ``expected`` lists those that exist."""


class UnknownKnobError(ArgumentError):
    """No policy knob of that name; ``expected`` lists those that exist."""


class UnknownKnobValueError(ArgumentError):
    """The knob has no such value; ``expected`` lists its values."""


# asm-generic's numbers, which arm64 uses: the machine that runs the model may number them
# otherwise.
_LINUX_ERRNO = {
    "EPERM": (1, "Operation not permitted"),
    "ENOENT": (2, "No such file or directory"),
    "EINTR": (4, "Interrupted system call"),
    "EIO": (5, "Input/output error"),
    "ENXIO": (6, "No such device or address"),
    "EBADF": (9, "Bad file descriptor"),
    "EAGAIN": (11, "Resource temporarily unavailable"),
    "ENOMEM": (12, "Cannot allocate memory"),
    "EACCES": (13, "Permission denied"),
    "EFAULT": (14, "Bad address"),
    "EBUSY": (16, "Device or resource busy"),
    "EEXIST": (17, "File exists"),
    "ENODEV": (19, "No such device"),
    "EINVAL": (22, "Invalid argument"),
    "ENOSYS": (38, "Function not implemented"),
    "EOPNOTSUPP": (95, "Operation not supported"),
    "ENOTRECOVERABLE": (131, "State not recoverable"),
    "EHWPOISON": (133, "Memory page has hardware error"),
}


class LinuxError(TagvisorError):
    """The modelled Linux refused a system call or an ioctl.

    Args:
        errno_name: The symbolic error number, such as ``EINVAL``.
        call: The call that was refused, such as ``mmap`` or ``ioctl(KVM_ARM_MTE_COPY_TAGS)``.

    Attributes:
        errno: Linux's number for it on arm64, whatever machine the model runs on.
        strerror: Its meaning in words.
    """

    def __init__(self, errno_name: str, call: str) -> None:
        super().__init__(errno_name, call)
        self.errno_name = errno_name
        self.call = call
        self.errno, self.strerror = _LINUX_ERRNO.get(errno_name, (0, errno_name))

    def __str__(self) -> str:
        return f"{self.call}: {self.errno_name} ({self.strerror})"


class UserSignal(TagvisorError):
    """A load or store of a process ended in a signal.

    Args:
        signal: Its name, ``SIGSEGV`` or ``SIGBUS``.
        code: ``si_code``, such as ``SEGV_MTESERR``.
        address: ``si_addr``: where it faulted, as the kernel reports it.
        text: Signal and code as recorded scenarios print them.
    """

    def __init__(self, signal: str, code: str, address: int, text: str) -> None:
        super().__init__(signal, code, address, text)
        self.signal = signal
        self.code = code
        self.address = address
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} at {self.address:#018x}"


class GuestException(TagvisorError):
    """An access of a guest took an exception to the guest's own EL1.

    Args:
        esr: ``ESR_EL1``.
        far: ``FAR_EL1``: the pointer, or where in the access the fault was.
        hpfar: ``HPFAR_EL2``, 0 unless the fault was at stage 2.
        kind: The kind of fault, such as ``tag-check`` or ``permission``.
        text: The fault in words.
    """

    def __init__(self, esr: int, far: int, hpfar: int, kind: str, text: str) -> None:
        super().__init__(esr, far, hpfar, kind, text)
        self.esr = esr
        self.far = far
        self.hpfar = hpfar
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} (ESR_EL1 {self.esr:#010x}, FAR_EL1 {self.far:#018x})"


class MmioAccess(NamedTuple):
    """What ``KVM_EXIT_MMIO`` hands to the VMM."""

    write: bool
    """A store (True) or a load."""
    ipa: int
    """The guest physical address."""
    length: int
    """Bytes."""
    value: int
    """What was stored; 0 for a load."""


class MemoryFault(NamedTuple):
    """What ``KVM_EXIT_MEMORY_FAULT`` tells the VMM of a stage-2 fault that was not resolved."""

    flags: int
    """0; 16 where the guest wanted tags of memory mapped ``NoTagAccess``."""
    gpa: int
    """The guest physical address where what could not be mapped begins."""
    size: int
    """Its bytes; 0 where KVM did not know yet."""


class GuestExit(TagvisorError):
    """An access of a guest left ``KVM_RUN``: it neither completed nor faulted in the guest.

    Either ``mmio`` or ``errno_name`` is not None.

    Args:
        mmio: The access, when no memslot backs the address (``KVM_EXIT_MMIO``).
        errno_name: The error number when ``KVM_RUN`` failed, such as ``EFAULT`` for a memslot
            without usable backing or ``ENOSYS`` for a tag instruction on an address without memory.
        memory_fault: Where it failed, when the exit reason beside the error is
            ``KVM_EXIT_MEMORY_FAULT``: for ``guest_memfd`` memory since 6.18 (knob
            ``memory_fault_exit``), and for an access to tags of memory mapped ``NoTagAccess``
            (:meth:`tagvisor.vm.Vm.enable_mte_perm`).
    """

    def __init__(
        self,
        mmio: MmioAccess | tuple[bool, int, int, int] | None,
        errno_name: str | None,
        memory_fault: MemoryFault | tuple[int, int, int] | None = None,
    ) -> None:
        access = None if mmio is None else MmioAccess(*mmio)
        fault = None if memory_fault is None else MemoryFault(*memory_fault)
        super().__init__(access, errno_name, fault)
        self.mmio = access
        self.errno_name = errno_name
        self.memory_fault = fault

    def __str__(self) -> str:
        if self.mmio is not None:
            what = "store to" if self.mmio.write else "load from"
            return (
                f"KVM_EXIT_MMIO: {self.mmio.length}-byte {what} IPA {self.mmio.ipa:#x}, no memslot"
            )
        _, words = _LINUX_ERRNO.get(self.errno_name or "", (0, ""))
        where = ""
        if self.memory_fault is not None:
            at, size = self.memory_fault.gpa, self.memory_fault.size
            where = f", KVM_EXIT_MEMORY_FAULT: {size} bytes at IPA {at:#x}"
        return f"ioctl(KVM_RUN): {self.errno_name} ({words}){where}"


class PolicyViolation(TagvisorError):
    """A property of tagged memory does not hold.

    Args:
        violation: Which one, and the numbered steps that led there.
    """

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation)
        self.violation = violation

    def __str__(self) -> str:
        return str(self.violation)


class ScenarioError(TagvisorError):
    """A scenario script that cannot be run.

    Args:
        path: The file.
        line: The line, from 1; 0 when it is the file as a whole.
        problem: What is wrong.
        expected: What would be right, in words that complete "expected ...".
    """

    def __init__(self, path: str, line: int, problem: str, expected: str) -> None:
        super().__init__(path, line, problem, expected)
        self.path = path
        self.line = line
        self.problem = problem
        self.expected = expected

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.problem}: expected {self.expected}"


class TraceError(TagvisorError):
    """A trace file that cannot be read: foreign, truncated, or of a later version.

    Args:
        path: The file.
        problem: What is wrong.
        expected: What would be right, in words that complete "expected ...".
    """

    def __init__(self, path: str, problem: str, expected: str) -> None:
        super().__init__(path, problem, expected)
        self.path = path
        self.problem = problem
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}: expected {self.expected}"


class VectorError(TagvisorError):
    """A vector file that cannot be replayed: foreign, damaged, or of a later version.

    Args:
        path: The file.
        line: The line, from 1; 0 when it is the file as a whole.
        problem: What is wrong.
        expected: What would be right, in words that complete "expected ...".
    """

    def __init__(self, path: str, line: int, problem: str, expected: str) -> None:
        super().__init__(path, line, problem, expected)
        self.path = path
        self.line = line
        self.problem = problem
        self.expected = expected

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.problem}: expected {self.expected}"


class RecordError(TagvisorError):
    """A program that could not be recorded.

    Args:
        problem: What is wrong.
        remedy: What to do about it, such as what to install.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


class InternalError(TagvisorError):
    """A fault of tagvisor itself: please report it with the message.

    The machine it happened in may be in the middle of a step. It refuses further use with this same
    exception.

    Args:
        message: What happened, and where in tagvisor's source.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
