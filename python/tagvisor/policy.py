"""Policies: every decision that kernel versions made differently, as data.

A policy is one value per knob. Named profiles stand for kernels; a kernel that never was is a
profile with knobs replaced::

    >>> import tagvisor as tv
    >>> tv.linux("6.12").replace(K1="restore").name
    'linux-6.12 K1=restore'

What the knobs mean, and which kernels took which value, is said by :func:`knobs` from the same
source that the machine asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tagvisor import _check, _native
from tagvisor.errors import UnknownKnobError, UnknownProfileError

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "Difference",
    "Knob",
    "KnobValue",
    "Policy",
    "Profile",
    "difference",
    "knob",
    "knobs",
    "linux",
    "policy",
    "profiles",
    "takers",
]


@dataclass(frozen=True, slots=True)
class KnobValue:
    """One value a knob can take."""

    name: str
    """Its name, such as ``slot-free``."""
    doc: str
    """What the kernel does with it, and which kernels did."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One decision."""

    id: str
    """Its row in the policy matrix, such as ``K1``."""
    field: str
    """Its name in words, such as ``saved_tags_erased``; accepted wherever ``id`` is."""
    title: str
    """The decision in one line."""
    doc: str
    """Which kernel function decides, and why it matters."""
    source: str
    """Where it is known from: file, commits and versions."""
    values: tuple[KnobValue, ...]
    """What can be decided."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A named policy: one column of the policy matrix."""

    name: str
    """Its name, such as ``linux-6.12``."""
    summary: str
    """What it stands for."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One value for every knob: a plain value that compares, hashes and pickles.

    Made by :func:`linux`, :func:`policy` and :meth:`replace`. A subclass may decide anew at each
    kernel event::

        class Careless(tv.Policy):
            def decide(self, knob, event):
                return "restore" if knob == "K1" and event == "handle_mm_fault" else None


        host = tv.Host(Careless.like("6.12"))
    """

    name: str
    """The profile, with the replaced knobs behind it."""
    values: tuple[tuple[str, str], ...]
    """Knob id and value's name, in the order of :func:`knobs`."""

    @classmethod
    def like(cls, base: Policy | str) -> Self:
        """A policy of this class with another one's values.

        Args:
            base: A profile's name or a policy.
        """
        known = policy(base) if isinstance(base, str) else base
        return cls(known.name, known.values)

    def decide(self, knob: str, event: str) -> str | None:  # noqa: ARG002 - for subclasses
        """Decide anew at a kernel event; for subclasses to override.

        It is asked about every knob when the host enters the kernel (a stage-2 fault, a page fault,
        a system call, an ioctl, a reclaim), never for an access that takes no fault. The answer
        holds until that event ends. An exception it raises is raised by the call under way, once
        that has come to its end with the values of this policy. The explorer, schedules and replays
        refuse a policy that overrides it.

        Args:
            knob: The knob's id, such as ``K18``.
            event: The kernel function that begins, such as ``user_mem_abort``, ``handle_mm_fault``,
                ``shrink_folio_list``, ``mmap`` or ``KVM_SET_USER_MEMORY_REGION``.

        Returns:
            A value of the knob; None for the policy's own.
        """
        return None

    @property
    def decides(self) -> bool:
        """Does a subclass override :meth:`decide`?"""
        return type(self).decide is not Policy.decide

    @property
    def knobs(self) -> dict[str, str]:
        """Knob id to value's name, such as ``{"K1": "slot-free", ...}``."""
        return dict(self.values)

    def replace(self, **values: str) -> Self:
        """This policy with knobs replaced.

        Args:
            **values: Knob (by id such as ``K1`` or by field name) to value's name.

        Returns:
            A new policy, whose name says what was replaced.

        Raises:
            UnknownKnobError: No knob of that name.
            UnknownKnobValueError: The knob has no such value.
        """
        name, pairs = self.name, self.values
        for knob, value in values.items():
            name, replaced = _native.policy_replace(name, pairs, knob, str(value))
            pairs = tuple(replaced)
        return type(self)(name, pairs)


def policy(name: str) -> Policy:
    """The policy of a profile.

    Args:
        name: A name of :func:`profiles`, such as ``v10-series`` or ``linux-6.12``; ``6.12`` is
            short for the latter.

    Raises:
        UnknownProfileError: No such profile; the message names those that exist.
    """
    full_name, values = _native.policy_profile(_check.text("name", name))
    return Policy(full_name, tuple(values))


def linux(version: str) -> Policy:
    """The policy of a Linux version.

    Args:
        version: Such as ``"6.12"``.

    Raises:
        UnknownProfileError: The model does not know that version; the message names those it knows.
    """
    known = [p.name.removeprefix("linux-") for p in profiles() if p.name.startswith("linux-")]
    given = _check.text("version", version).removeprefix("linux-")
    if given not in known:
        raise UnknownProfileError("version", version, "one of " + ", ".join(known))
    return policy(f"linux-{given}")


def profiles() -> list[Profile]:
    """The profiles that exist, oldest first."""
    return [Profile(name, summary) for name, summary in _native.policy_profiles()]


def knobs() -> list[Knob]:
    """Every knob with its values and what is known of them."""
    return [
        Knob(
            knob, field, title, doc, source, tuple(KnobValue(name, about) for name, about in values)
        )
        for knob, field, title, doc, source, values in _native.policy_knobs()
    ]


def knob(name: str) -> Knob:
    """One knob.

    Args:
        name: Its id, such as ``K18``, or its field name, such as ``sanitise``. ``K8`` names the
            knob of ``K7``, which holds both rows.

    Raises:
        UnknownKnobError: No such knob; the message names those that exist.
    """
    wanted = {"K8": "K7"}.get(_check.text("name", name), name)
    for known in knobs():
        if wanted in {known.id, known.field}:
            return known
    raise UnknownKnobError("knob", name, "one of " + ", ".join(known.id for known in knobs()))


def takers(knob: Knob) -> dict[str, tuple[str, ...]]:
    """Which profiles take which value of a knob: every value, in its order, to their names."""
    taken = [(known.name, policy(known.name).knobs[knob.id]) for known in profiles()]
    return {
        value.name: tuple(name for name, chosen in taken if chosen == value.name)
        for value in knob.values
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that two policies make differently."""

    knob: Knob
    left: KnobValue
    """What the first decides."""
    right: KnobValue
    """What the second decides."""


def difference(left: Policy, right: Policy) -> list[Difference]:
    """In which decisions two policies differ, in the order of :func:`knobs`."""
    found = []
    for known in knobs():
        values = {value.name: value for value in known.values}
        pair = left.knobs[known.id], right.knobs[known.id]
        if pair[0] != pair[1]:
            found.append(Difference(known, values[pair[0]], values[pair[1]]))
    return found
