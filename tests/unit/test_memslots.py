"""Memslots beyond a mapping: ``guest_memfd``, and logs that are switched on and off."""

from __future__ import annotations

import pytest

import tagvisor as tv
from tagvisor import scenario
from tagvisor.vm import READ_ONLY

IPA = 0x5000_0000
PAGE = 4096


def vm_on(kernel: str, *, mte: bool = True) -> tv.Vm:
    return tv.Host(tv.linux(kernel), memory="1 MiB").process().create_vm(mte=mte)


def test_a_guest_memfd_is_memory_that_no_mapping_stands_behind() -> None:
    vm = vm_on("6.18", mte=False)
    slot = vm.add_memslot(IPA, vm.create_guest_memfd(4), first=1, pages=2)
    cpu = vm.vcpu()

    cpu.store(IPA, 7)

    assert cpu.load(IPA) == 7
    with pytest.raises(tv.GuestExit, match="MMIO"):
        cpu.load(IPA + 2 * PAGE)
    (known,) = vm.memslots
    assert (known.slot, known.ipa, known.pages) == (slot, IPA, 2)
    vm.remove_memslot(slot)
    assert vm.memslots == ()
    with pytest.raises(tv.GuestExit, match="MMIO"):
        cpu.load(IPA)


@pytest.mark.parametrize("kernel", ["6.12", "6.13"])
def test_kernels_before_it_have_none(kernel: str) -> None:
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm_on(kernel).create_guest_memfd(1)


def test_since_7_2_it_and_mte_exclude_each_other_in_either_order() -> None:
    vm = vm_on("7.2")
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm.add_memslot(IPA, vm.create_guest_memfd(1))

    late = vm_on("7.2", mte=False)
    late.add_memslot(IPA, late.create_guest_memfd(1))
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        late.enable_mte()
    assert not late.mte


def test_it_can_be_neither_logged_nor_read_only_nor_changed() -> None:
    vm = vm_on("6.18")
    memory = vm.create_guest_memfd(1)
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm.add_memslot(IPA, memory, log_dirty=True)
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm.add_memslot(IPA, memory, flags=READ_ONLY)
    slot = vm.add_memslot(IPA, memory)
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm.set_dirty_log(slot, on=True)
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm.add_memslot(IPA + PAGE, memory, slot=slot)


def test_it_belongs_to_one_vm_and_has_its_size() -> None:
    vm = vm_on("6.18")
    memory = vm.create_guest_memfd(2)

    with pytest.raises(tv.ArgumentError, match="backing"):
        vm.process.create_vm().add_memslot(IPA, memory)
    with pytest.raises(tv.ArgumentError, match="first"):
        vm.add_memslot(IPA, memory, first=2)
    with pytest.raises(tv.ArgumentError, match="pages"):
        vm.add_memslot(IPA, memory, first=1, pages=2)


def test_a_log_is_switched_on_and_off() -> None:
    vm = vm_on("6.12")
    ram = vm.process.mmap(2)
    slot = vm.add_memslot(IPA, ram, log_dirty=True)
    cpu = vm.vcpu()
    cpu.store(IPA + PAGE, 1)
    assert vm.dirty_log(slot).tolist() == [False, True]

    vm.set_dirty_log(slot, on=False)

    cpu.store(IPA, 1)
    with pytest.raises(tv.LinuxError, match="ENOENT"):
        vm.dirty_log(slot)
    vm.set_dirty_log(slot, on=True)
    assert vm.dirty_log(slot).tolist() == [False, False]
    with pytest.raises(tv.ArgumentError, match="slot"):
        vm.set_dirty_log(9, on=True)


def test_an_actor_maps_a_file_over_a_memslots_memory() -> None:
    host = tv.Host(tv.linux("6.12"), memory="1 MiB")
    vmm = host.process()
    ram = vmm.mmap(1)
    memfd = host.memfd(1)
    vmm.mmap(1, backing=memfd, shared=True).page(0).store(7)

    tv.schedule(host, {"vmm": [tv.ops.mmap(ram, backing=memfd, shared=True)]}, ["vmm"])

    assert ram.page(0).load() == 7
    with pytest.raises(tv.ArgumentError, match="backing"):
        tv.ops.mmap(ram, backing=tv.Host(memory="1 MiB").memfd(1))


def test_a_huge_page_is_a_block_until_a_logged_write_or_a_split() -> None:
    host = tv.Host("6.12", memory="16 MiB")
    host.set_transparent_hugepage("madvise")
    vmm = host.process("vmm")
    ram = vmm.mmap(512, at=0x7000_0020_0000)
    ram.madvise("hugepage")
    ram.page(0).store(1)
    vm = vmm.create_vm(mte=True)
    vm.enable_eager_split()
    slot = vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()

    cpu.stg(IPA + 3 * 4096, 5)
    assert cpu.ldg(IPA + 511 * 4096) == 0
    assert (host.stats()["stage2_faults"], host.stats()["stage2_blocks"]) == (1, 1)
    vm.set_dirty_log(slot, on=True)

    assert host.stats()["stage2_block_splits"] == 1
    assert cpu.ldg(IPA + 3 * 4096) == 5
    assert host.stats()["stage2_faults"] == 1
    host.check()


def test_eager_split_is_refused_by_old_kernels_and_once_there_are_slots() -> None:
    old = tv.Host("6.4").process().create_vm()
    with pytest.raises(tv.LinuxError, match="EAGER_SPLIT") as refused:
        old.enable_eager_split()
    assert refused.value.errno_name == "EINVAL"

    vmm = tv.Host("6.12").process()
    vm = vmm.create_vm()
    with pytest.raises(tv.LinuxError):
        vm.enable_eager_split(3 * 4096)
    vm.enable_eager_split(0)
    vm.add_memslot(IPA, vmm.mmap(1))
    with pytest.raises(tv.LinuxError):
        vm.enable_eager_split()


def test_a_failed_fault_says_where_under_the_policy_that_was_proposed() -> None:
    for value, told in (("gmem", None), ("all", (0, IPA + PAGE, PAGE))):
        host = tv.Host(tv.linux("7.3").replace(memory_fault_exit=value), memory="1 MiB")
        vmm = host.process()
        vm = vmm.create_vm(mte=True)
        vm.add_memslot(IPA, vmm.mmap(2, prot=""))
        with pytest.raises(tv.GuestExit, match="EFAULT") as failed:
            vm.vcpu().ldg(IPA + PAGE + 32)
        assert failed.value.memory_fault == told
        assert ("MEMORY_FAULT" in str(failed.value)) == (told is not None)
        assert failed.value.errno_name == "EFAULT"


def test_a_scenario_answers_a_memory_fault_as_exit_39() -> None:
    script = "mmap N anon 1 none\nvm mte\nslot 1 0x50000000 N 0 1\ng ldg 0x50000000\n"
    answers = scenario.run_text(script, policy=tv.linux("7.3").replace(memory_fault_exit="all"))
    expected = {"run": -1, "kvm_run": "EFAULT", "exit": 39}
    assert expected.items() <= answers[3].items()
    assert answers[3]["mf"] == "flags=0 gpa=50000000 size=1000"


def test_memory_without_tags_is_mapped_no_tag_access_as_proposed() -> None:
    host = tv.Host("mte-perm-series", memory="1 MiB")
    vmm = host.process()
    disk = vmm.mmap(1, backing=host.file("ramfs", 1), shared=True)
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vmm.create_vm(mte=True).add_memslot(IPA, disk)
    vm = vmm.create_vm(mte=True)
    vm.enable_mte_perm()
    vm.add_memslot(IPA, disk)
    cpu = vm.vcpu()

    with pytest.raises(tv.GuestExit, match="MEMORY_FAULT") as wanted:
        cpu.ldg(IPA + 16)

    assert wanted.value.memory_fault == (16, IPA, PAGE)
    cpu.set_reg("TCR_EL1", cpu.get_reg("TCR_EL1") | 1 << 57)  # TCMA0: tag 0 is unchecked
    cpu.store(IPA, 7)
    assert disk.page(0).load() == 7
    host.check()
    with pytest.raises(tv.LinuxError, match="MTE_PERM"):
        tv.Host("7.3").process().create_vm(mte=True).enable_mte_perm()
