"""Execute a scenario and collect its answers.

Models one run of the recorded test machine: a fresh machine, one process that is also the VMM,
commands in order. Leaves out what the two rooms (:mod:`tagvisor.scenario.host`,
:mod:`tagvisor.scenario.guest`) leave out.

Invariant: one answer per answering command, and none at all when any command cannot be executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tagvisor import Host
from tagvisor.errors import (
    ArgumentError,
    InternalError,
    LinuxError,
    ScenarioError,
    TagvisorError,
    UserSignal,
)
from tagvisor.scenario.answers import number_answers
from tagvisor.scenario.commands import GuestCommand
from tagvisor.scenario.guest import GuestRoom
from tagvisor.scenario.host import HostRoom
from tagvisor.scenario.parser import parse

if TYPE_CHECKING:
    import os

    from tagvisor import Policy
    from tagvisor.scenario.answers import Answer, Keys
    from tagvisor.scenario.commands import Command

__all__ = ["Interpreter", "run", "run_text"]

# The recorded machines had 512 MiB; what is not touched costs nothing.
MEMORY = "512 MiB"
SWAP = "256 MiB"


class Interpreter:
    """One machine and the process that a scenario drives on it.

    Args:
        host: A fresh machine.
        path: The scenario's file, for errors.
    """

    def __init__(self, host: Host, path: str) -> None:
        process = host.process("vmm")
        self.path = path
        self._host_room = HostRoom(host, process, path)
        self._guest_room = GuestRoom(process, self._host_room)

    def answer(self, command: Command) -> Keys:
        """Execute one command.

        Raises:
            ScenarioError: The script asks for what cannot be.
        """
        try:
            if isinstance(command, GuestCommand):
                return self._guest_room.execute(command)
            return self._host_room.execute(command)
        except LinuxError as refused:
            return {"ret": -1, "errno": refused.errno_name}
        except UserSignal as signal:
            return {"sig": signal.text}
        except (ScenarioError, InternalError):
            raise
        except ArgumentError as wrong:
            problem = f"{wrong.argument}={wrong.value!r}"
            raise ScenarioError(self.path, command.line, problem, wrong.expected) from wrong
        except TagvisorError as wrong:
            expected = "a command the machine can execute here"
            raise ScenarioError(self.path, command.line, str(wrong), expected) from wrong


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
    host = Host(policy, memory=MEMORY, swap=SWAP, swap_kind=swap, ledger=False, log=False)
    interpreter = Interpreter(host, path)
    return number_answers([(command.text, interpreter.answer(command)) for command in commands])


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
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise ScenarioError(str(path), 0, problem, "a scenario file") from error
    return run_text(text, str(path), policy=policy, swap=swap)
