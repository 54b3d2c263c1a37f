"""Execute a scenario and collect its answers.

Models one run of the recorded test machine: a fresh machine, one process that is also the VMM, one
forked child at a time, commands in order. Leaves out what the two rooms
(:mod:`tagvisor.scenario.host`, :mod:`tagvisor.scenario.guest`) leave out.

Invariant: one answer per answering command, and none at all when a line is malformed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tagvisor import Host
from tagvisor.errors import (
    ArgumentError,
    InternalError,
    LinuxError,
    PolicyViolation,
    ScenarioError,
    TagvisorError,
    UserSignal,
)
from tagvisor.scenario import commands as cmd
from tagvisor.scenario.answers import number_answers
from tagvisor.scenario.guest import GuestRoom
from tagvisor.scenario.host import HostRoom
from tagvisor.scenario.parser import parse

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from tagvisor import Policy, Violation
    from tagvisor.scenario.answers import Answer, Keys
    from tagvisor.scenario.commands import Command

__all__ = ["Interpreter", "judge", "judge_text", "run", "run_text"]

PAGE_SIZE = 4096

# The recorded machines had 512 MiB; what is not touched costs nothing.
MEMORY = "512 MiB"
SWAP = "256 MiB"
MMIO = "16 MiB"


class Interpreter:
    """One machine and the process that a scenario drives on it.

    Args:
        host: A fresh machine.
        path: The scenario's file, for errors.
    """

    def __init__(self, host: Host, path: str) -> None:
        process = host.process("vmm")
        self.path = path
        self._parent = HostRoom(host, process, path)
        self._guest_room = GuestRoom(process, self._parent)
        self._child: HostRoom | None = None

    def answers(self, commands: Iterable[Command]) -> Iterator[tuple[str, str, Keys]]:
        """Who answers, the command's text and the answer's keys, one for each that answers."""
        for command in commands:
            match command:
                case cmd.MachineCommand():
                    self._change_machine(command)
                case cmd.ChildCommand(command=None):
                    self._living_child(command).process.exit()
                    self._child = None
                    yield "p", command.text, {"ret": 0}
                case cmd.ChildCommand(command=inner) if inner is not None:
                    child = self._living_child(command)
                    if isinstance(inner, cmd.MachineCommand):
                        self._change_machine(inner)
                    else:
                        yield "c", command.text, self._answer(inner, child)
                case _:
                    yield "p", command.text, self._answer(command, self._parent)

    def _answer(self, command: Command, room: HostRoom) -> Keys:
        """Execute one command.

        Raises:
            ScenarioError: The script asks for what cannot be.
        """
        try:
            keys = self._execute(command, room)
        except LinuxError as refused:
            # The language has no name for this one.
            unnamed = refused.errno_name == "ENOTRECOVERABLE"
            keys = {"ret": -1, "errno": f"E{refused.errno}" if unnamed else refused.errno_name}
        except UserSignal as signal:
            keys = {"sig": signal.text}
        except (ScenarioError, InternalError):
            raise
        except ArgumentError as wrong:
            problem = f"{wrong.argument}={wrong.value!r}"
            raise ScenarioError(self.path, command.line, problem, wrong.expected) from wrong
        except TagvisorError as wrong:
            expected = "a command the machine can execute here"
            raise ScenarioError(self.path, command.line, str(wrong), expected) from wrong
        return {**keys, **room.late_signals()}

    def _execute(self, command: Command, room: HostRoom) -> Keys:
        match command:
            case cmd.Unknown():
                return {"unknown": 1}
            case cmd.Unsupported():
                return {"unsupported": 1}
            case cmd.Fork():
                return self._fork(command)
            case cmd.Peek(name=name, page=page, count=count):
                return self._living_child(command).peek(name, page, count)
            case cmd.Poke(name=name, page=page, count=count, tag=tag):
                return self._living_child(command).poke(name, page, count, tag)
            case cmd.GuestCommand():
                return self._guest_room.execute(command)
            case _:
                return room.execute(command)

    def _fork(self, command: cmd.Fork) -> Keys:
        if self._child is not None:
            problem = "a second fork while the child lives"
            raise ScenarioError(self.path, command.line, problem, "`c exit` before it")
        process = self._parent.process.fork("child")
        self._child = self._parent.forked(process)
        return {"ret": 0}

    def _living_child(self, command: Command) -> HostRoom:
        if self._child is None:
            problem = "a command for a child that is not there"
            raise ScenarioError(self.path, command.line, problem, "`fork` before it")
        return self._child

    def _change_machine(self, command: cmd.MachineCommand) -> None:
        machine = self._parent.process.machine
        match command.what:
            case "ksm":
                machine.ksm_run()
            case "hugepages":
                machine.set_nr_hugepages(command.amount)
            case "thp":
                # 1 is madvise, 2 is use_zero_page: a machine with less than 512 MiB, as the
                # recorded ones are, boots with neither.
                machine.set_transparent_hugepage(bool(command.amount & 1), bool(command.amount & 2))
            case "swapoff":
                machine.swapoff()
            case _:
                machine.memcg_reclaim(-(-command.amount // PAGE_SIZE))


def run_text(
    text: bytes | str,
    path: str = "<scenario>",
    *,
    policy: str | Policy = "linux-6.12",
    swap: Literal["zram", "nvme"] = "nvme",
) -> list[Answer]:
    """Run a scenario that is already in memory.

    Args:
        text: Its lines.
        path: What errors call it.
        policy: The kernel, as :func:`tagvisor.policy` names it, or a policy.
        swap: What is behind the swap device.

    Returns:
        Its answers in normalised form, the end line last.

    Raises:
        ScenarioError: A line that cannot be executed.
    """
    commands = parse(text, path)
    host = _machine(policy, swap, judged=False)
    interpreter = Interpreter(host, path)
    return number_answers(interpreter.answers(commands))


def judge(
    path: str | os.PathLike[str],
    *,
    policy: str | Policy = "linux-6.12",
    swap: Literal["zram", "nvme"] = "nvme",
) -> list[Violation]:
    """Run the scenario in a file with the ledger watching.

    Args:
        path: The file.
        policy: The kernel, as :func:`tagvisor.policy` names it, or a policy.
        swap: What is behind the swap device.

    Returns:
        The properties that did not hold, in the order they were noticed; the last are those that
        only a look at everything finds.

    Raises:
        ScenarioError: No such file, or a line that cannot be executed.
    """
    return judge_text(_read(path), str(path), policy=policy, swap=swap)


def judge_text(
    text: bytes | str,
    path: str = "<scenario>",
    *,
    policy: str | Policy = "linux-6.12",
    swap: Literal["zram", "nvme"] = "nvme",
) -> list[Violation]:
    """Run a scenario that is already in memory with the ledger watching.

    Args:
        text: Its lines.
        path: What errors call it.
        policy: As for :func:`judge`.
        swap: As for :func:`judge`.

    Returns:
        As :func:`judge`.

    Raises:
        ScenarioError: A line cannot be executed.
    """
    commands = parse(text, path)
    host = _machine(policy, swap, judged=True)
    for _ in Interpreter(host, path).answers(commands):
        pass
    with contextlib.suppress(PolicyViolation):
        host.check()
    return host.violations


def _machine(policy: str | Policy, swap: Literal["zram", "nvme"], *, judged: bool) -> Host:
    return Host(
        policy,
        memory=MEMORY,
        mmio=MMIO,
        swap=SWAP,
        swap_kind=swap,
        ledger=judged,
        log=judged,
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise ScenarioError(str(path), 0, problem, "a scenario file") from error


def run(
    path: str | os.PathLike[str],
    *,
    policy: str | Policy = "linux-6.12",
    swap: Literal["zram", "nvme"] = "nvme",
) -> list[Answer]:
    """Run the scenario in a file (see :func:`run_text`).

    Raises:
        ScenarioError: No such file, or a line that cannot be executed.
    """
    return run_text(_read(path), str(path), policy=policy, swap=swap)
