from __future__ import annotations

import pytest

import tagvisor as tv
from tagvisor import scenario

GUEST = "vm mte\nmmap A anon 4\nslot 1 0x50000000 A 0 4\n"


def last(text: str) -> dict[str, int | str]:
    """The keys that the last command answers with."""
    answer = scenario.run_text(text)[-2]
    return {key: value for key, value in answer.items() if key not in {"i", "who", "cmd"}}


def test_a_mapping_without_prot_mte_reads_tag_0_and_ignores_stg() -> None:
    assert last("mmap A anon 1\nfill A 0 5\ntags A 0\n") == {"tags": "0*256"}


def test_a_tag_mismatch_is_an_answer() -> None:
    answer = last("mmap A anon 1 mte\nstg A 0 0 3\nrd A 0\n")

    assert answer == {"sig": "SIGSEGV SEGV_MTESERR(9)"}


def test_prot_none_is_an_answer() -> None:
    answer = last("mmap A anon 1 mte\nmprotect A 0 n\ntags A 0\n")

    assert answer == {"sig": "SIGSEGV SEGV_ACCERR(2)"}


def test_memory_that_was_unmapped_is_an_answer() -> None:
    answer = last("mmap A anon 1\nmunmap A\nrd A 0\n")

    assert answer == {"sig": "SIGSEGV SEGV_MAPERR(1)"}


def test_a_word_linux_does_not_know_is_einval() -> None:
    assert last("mmap A anon 1\nmadvise A 0 frob\n") == {"ret": -1, "errno": "EINVAL"}


def test_fixed_replaces_the_memory_behind_a_slot() -> None:
    text = GUEST + "g stgpage 0x50000000 6 0\nmmap A anon 4 fixed=A\ng ldgpage 0x50000000\n"

    assert last(text) == {"gtags": "0*256"}


def test_counting_commands_count() -> None:
    assert last("mmap A anon 4 mte\nfillall A 3 5\ncheckall A 4 5\n") == {"bad": 256, "sig": 0}
    assert last("mmap A anon 4\nset A 1 7\nevict A 1\nresident A 4\n") == {"present": 0, "swap": 1}


def test_random_pages_are_the_same_in_every_run() -> None:
    assert last("mmap A anon 1\nrand A 0\nrd A 0\n") == last("mmap A anon 1\nrand A 0\nrd A 0\n")


def test_mte_has_to_be_enabled_before_the_first_vcpu() -> None:
    assert last("vm mte late\n") == {
        "cap": 1,
        "enable": "ok",
        "vcpu": "ok",
        "late_enable": "EINVAL",
        "start": 0,
    }


def test_a_vm_with_mte_has_no_32_bit_vcpu() -> None:
    assert last("vm mte el1_32\n") == {
        "cap": 1,
        "enable": "ok",
        "vcpu": "EINVAL",
        "late_enable": "-",
        "start": -9,
    }


def test_an_address_without_memslot_is_mmio_for_data_and_enosys_for_tags() -> None:
    load, store, tag = scenario.run_text(
        "vm mte\ng ld 0x7f000000\ng st 0x7f000000 1\ng ldg 0x7f000000\n"
    )[1:-1]

    assert (load["v"], load["mmio"]) == ("5a5a5a5a5a5a5a5a", "R 7f000000 len 8")
    assert (store["v"], store["mmio"]) == ("0", "W 7f000000 len 8")
    assert (tag["run"], tag["kvm_run"], tag["exit"]) == (-1, "ENOSYS", 0)


def test_memory_unmapped_under_a_slot_is_efault() -> None:
    assert last(GUEST + "munmap A\ng ldg 0x50000000\n") == {
        "run": -1,
        "kvm_run": "EFAULT",
        "exit": 0,
    }


def test_copytags_answers_as_the_ioctl() -> None:
    assert last(GUEST + "copytags from 0x50000000 1 flags=2\n") == {
        "ret": -1,
        "errno": "EINVAL",
        "tags": "",
    }
    assert last(GUEST + "copytags from 0x60000000 1\n")["errno"] == "EFAULT"
    assert last(GUEST + "copytags from 0x50003000 4\n") == {
        "ret": 4096,
        "errno": "0",
        "tags": "0*256",
    }
    assert last(GUEST + "copytags to 0x50000000 2 partial=356\n")["ret"] == 4096
    assert last(GUEST + "copytags to 0x50000000 1 badaddr\n")["errno"] == "EFAULT"


def test_a_slot_that_overlaps_or_is_not_aligned_is_refused() -> None:
    assert last(GUEST + "slot 2 0x50001000 A 0 1\n") == {"ret": -1, "errno": "EEXIST"}
    assert last(GUEST + "slot 2 0x60000100 A 0 1\n") == {"ret": -1, "errno": "EINVAL"}
    assert last(GUEST + "slot 7 0x60000000 A 0 0\n") == {"ret": -1, "errno": "EINVAL"}


def test_the_operations_of_the_guest_change_what_they_say() -> None:
    text = (
        GUEST + "g gva 0x50000000 a\ng st2g 0x50000000 3\ng stzg 0x50000010 4\n"
        "g stgm 0x50000100 fedcba9876543210\ng ldgm 0x50000000\n"
    )

    assert last(text) == {"v": "aa43"}
    assert last(GUEST + "g gzva 0x50000000 b\ng zva 0x0b00000050000000\n") == {"v": "0"}
    assert last(GUEST + "g gmid\n") == {"v": "6"}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("evict A 0\n", 1, "nothing is mapped under the name 'A'"),
        ("mmap A anon 1 fixed=B\n", 1, "nothing is mapped under the name 'B'"),
        ("c rd A 0\n", 1, "a child that is not there"),
        ("fork\nfork\n", 2, "a second fork"),
        ("peek A 0 4\n", 1, "a child that is not there"),
        ("g ldg 0x50000000\n", 1, "without a guest"),
        ("vm mte\ndestroy\ng ldg 0x50000000\n", 3, "without a guest"),
    ],
)
def test_a_script_that_asks_for_what_cannot_be_names_the_line(
    text: str, line: int, problem: str
) -> None:
    with pytest.raises(tv.ScenarioError) as caught:
        scenario.run_text(text, "x.scn")

    assert (caught.value.path, caught.value.line) == ("x.scn", line)
    assert problem in caught.value.problem


def test_a_mistake_in_the_last_line_is_found_before_anything_runs() -> None:
    with pytest.raises(tv.ScenarioError, match=r"x\.scn:2"):
        scenario.run_text("mmap A anon 99999999\nmmap A\n", "x.scn")


def test_memory_outside_every_object_is_answered_as_the_kernel_does() -> None:
    nowhere = {"sig": "SIGSEGV SEGV_MAPERR(1)"}
    assert last("rd A 0\n") == nowhere
    assert last("mmap A anon 4\nrd A 4\n") == nowhere
    assert last("mmap A anon 4\nmprotect A 2 r 3\n") == {"ret": -1, "errno": "ENOMEM"}
    assert last("mmap A anon 1\nmadvise A 1 dontneed\n") == {"ret": -1, "errno": "ENOMEM"}
    assert last("mmap A memfd 1\nmmap B memfd 2 fd=A\nrd B 1\n") == {"sig": "SIGBUS (2)"}
    assert last("frobnicate\n") == {"unknown": 1}


def test_the_child_has_its_own_memory_and_answers_for_itself() -> None:
    said = scenario.run_text(
        "mmap A anon 1 mte\nfill A 0 seq\nfork\nc stg A 0 0 9\nc ldg A 0 0\nldg A 0 0\nc exit\n"
    )

    assert [(a["who"], a.get("tag")) for a in said[3:6]] == [("c", None), ("c", "9"), ("p", "0")]
    assert said[6] == {"i": 6, "who": "p", "cmd": "c exit", "ret": 0}
