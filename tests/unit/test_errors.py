"""Exceptions carry fields, read as one line, and survive a process boundary."""

from __future__ import annotations

import inspect
import pickle

import pytest

import tagvisor as tv
from tagvisor import _native, errors

STEP = tv.Step(1, "vcpu0", "user_mem_abort", "read_lock(mmu_lock)", "IPA 0x50000000")
VIOLATION = tv.Violation("P1", "no-loss", "the tag of granule 3 is gone", (STEP,))

EXAMPLES: list[errors.TagvisorError] = [
    errors.TagvisorError("something"),
    errors.ArgumentError("pages", 0, "an integer from 1 to 9"),
    errors.SizeError("memory", -1, "at least one page (4 KiB)"),
    errors.UnknownProfileError("name", "linux-2.4", "one of linux-6.12"),
    errors.UnknownKnobError("knob", "K99", "one of K1"),
    errors.UnknownKnobValueError("K1", "never", "one of restore"),
    errors.LinuxError("EINVAL", "mmap"),
    errors.UserSignal("SIGSEGV", "SEGV_MTESERR", 0x1000, "SIGSEGV SEGV_MTESERR(9)"),
    errors.GuestException(0x96000011, 0x5000_0000, 0, "tag-check", "synchronous tag check fault"),
    errors.GuestExit(errors.MmioAccess(write=True, ipa=0x9000, length=4, value=1), None),
    errors.GuestExit(None, "EFAULT"),
    errors.GuestExit(None, "EFAULT", errors.MemoryFault(0, 0x9000, 4096)),
    errors.PolicyViolation(VIOLATION),
    errors.ScenarioError("a.scn", 3, "unknown command 'fly'", "a command of the language"),
    errors.TraceError("a.trace", "truncated", "a complete file"),
    errors.VectorError("a.jsonl", 3, "not JSON", "a JSON object on each line"),
    errors.RecordError("valgrind is missing", "install it"),
    errors.InternalError("panic at host.rs:1:1: on purpose"),
]


def everything() -> list[type[errors.TagvisorError]]:
    return [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.TagvisorError)
    ]


def test_there_is_an_example_of_every_exception() -> None:
    assert {type(example) for example in EXAMPLES} == set(everything())


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_pickles_with_its_fields(error: errors.TagvisorError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_args_are_the_constructors_arguments(error: errors.TagvisorError) -> None:
    again = type(error)(*error.args)

    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "error",
    [e for e in EXAMPLES if not isinstance(e, errors.PolicyViolation)],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_reads_as_one_line(error: errors.TagvisorError) -> None:
    assert "\n" not in str(error)
    assert str(error)


@pytest.mark.parametrize("cls", everything(), ids=lambda cls: cls.__name__)
def test_the_package_exports_every_exception_and_the_tree_names_it(
    cls: type[errors.TagvisorError],
) -> None:
    assert getattr(tv, cls.__name__) is cls
    assert cls.__name__ in (errors.__doc__ or "")


def test_messages_are_what_a_kernel_engineer_would_write() -> None:
    texts = [str(error) for error in EXAMPLES]

    assert "pages=0: expected an integer from 1 to 9" in texts
    assert "mmap: EINVAL (Invalid argument)" in texts
    assert "SIGSEGV SEGV_MTESERR(9) at 0x0000000000001000" in texts
    assert "synchronous tag check fault (ESR_EL1 0x96000011, FAR_EL1 0x0000000050000000)" in texts
    assert "KVM_EXIT_MMIO: 4-byte store to IPA 0x9000, no memslot" in texts
    assert "ioctl(KVM_RUN): EFAULT (Bad address)" in texts
    assert "a.scn:3: unknown command 'fly': expected a command of the language" in texts


def test_a_violation_prints_its_numbered_steps() -> None:
    text = str(VIOLATION)

    assert text.splitlines()[0] == "P1 no-loss: the tag of granule 3 is gone"
    assert text.splitlines()[2].split() == [
        "1",
        "vcpu0",
        "user_mem_abort:",
        "read_lock(mmu_lock)",
        "IPA",
        "0x50000000",
    ]


def test_a_long_run_of_one_step_is_folded() -> None:
    steps = tuple(
        tv.Step(n, "vcpu0", "guest", "execute", f"STG {16 * n:#x}, tag 1") for n in range(1, 257)
    )
    last = tv.Step(257, "kswapd", "mte_save_tags", "xa_store", "tags saved")

    lines = str(tv.Violation("P1", "no-loss", "gone", (*steps, last))).splitlines()

    assert [line.split()[0] for line in lines[2:]] == ["1", "(254", "256", "257"]


def test_a_panic_becomes_internal_error_and_the_machine_refuses_further_use(
    capfd: pytest.CaptureFixture[str],
) -> None:
    host = tv.Host()
    process = host.process()

    place = r"panic at rust/py/src/machine.rs:\d+:\d+: on purpose"
    with pytest.raises(tv.InternalError, match=place):
        host.machine._panic_on_purpose()
    with pytest.raises(tv.InternalError, match="refuses further use"):
        process.mmap(1)
    with pytest.raises(tv.InternalError, match="refuses further use"):
        host.check()

    assert capfd.readouterr() == ("", "")
    tv.Host().check()


def test_numbers_the_native_module_cannot_hold_never_reach_it() -> None:
    with pytest.raises(OverflowError):
        _native.Machine.create_vm(tv.Host().machine, -1)
