"""The machine as a user drives it from Python."""

from __future__ import annotations

import numpy as np
import pytest

import tagvisor as tv

IPA = 0x5000_0000
PAGE = 4096


@pytest.fixture
def host() -> tv.Host:
    return tv.Host(policy=tv.linux("6.12"), memory="64 MiB", swap="64 MiB")


@pytest.fixture
def vmm(host: tv.Host) -> tv.Process:
    return host.process("vmm")


@pytest.fixture
def ram(vmm: tv.Process) -> tv.Mapping:
    return vmm.mmap(pages=16)


@pytest.fixture
def vm(vmm: tv.Process, ram: tv.Mapping) -> tv.Vm:
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(ipa=IPA, backing=ram)
    return vm


@pytest.fixture
def cpu(vm: tv.Vm) -> tv.Vcpu:
    return vm.vcpu()


def test_a_guests_tag_survives_being_swapped_out() -> None:
    host = tv.Host(policy=tv.linux("6.12"), memory="64 MiB", swap="64 MiB")
    vmm = host.process("vmm")
    ram = vmm.mmap(pages=16)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(ipa=0x5000_0000, backing=ram)
    cpu = vm.vcpu()

    p = cpu.irg(0x5000_0000)
    cpu.stg(p)
    cpu.store(p, 42)
    swapped = host.evict(ram.page(0))

    assert swapped.swap
    assert not swapped.present
    assert cpu.load(p) == 42
    host.check()


def test_erasing_saved_tags_at_restore_loses_them_and_the_steps_say_how() -> None:
    host = tv.Host(policy=tv.linux("6.12").replace(K1="restore"))
    vmm = host.process()
    ram = vmm.mmap(4)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    cpu.fill_page(IPA, 1, 1)

    host.evict(ram.page(0))
    ram.page(0).load()
    host.evict(ram.page(0))
    tags = cpu.page_tags(IPA)

    assert not tags.any()
    with pytest.raises(tv.PolicyViolation) as raised:
        host.check()
    assert raised.value.violation == host.violations[0]
    loss = next(found for found in host.violations if found.property == "P1")
    assert loss.title == "no-loss"
    assert [step.n for step in loss.steps] == list(range(1, len(loss.steps) + 1))
    assert "mte_restore_tags" in str(loss)


def test_a_wrong_tag_is_a_tag_check_fault_with_its_syndrome(cpu: tv.Vcpu) -> None:
    cpu.stg(IPA, 5)
    pointer = IPA | 6 << 56

    with pytest.raises(tv.GuestException) as raised:
        cpu.load(pointer)

    assert raised.value.kind == "tag-check"
    assert raised.value.esr == 0x9600_0011
    assert raised.value.far == pointer


def test_an_address_without_memslot_leaves_the_guest_as_mmio(cpu: tv.Vcpu) -> None:
    with pytest.raises(tv.GuestExit) as raised:
        cpu.store(0x9000_0008, 0x1234, size=4)

    assert raised.value.errno_name is None
    assert raised.value.mmio == tv.MmioAccess(write=True, ipa=0x9000_0008, length=4, value=0x1234)


def test_a_tag_instruction_without_memory_fails_kvm_run(cpu: tv.Vcpu) -> None:
    with pytest.raises(tv.GuestExit) as raised:
        cpu.stg(0x9000_0000, 1)

    assert raised.value.mmio is None
    assert raised.value.errno_name == "ENOSYS"


def test_a_processs_unmapped_access_is_a_signal(ram: tv.Mapping) -> None:
    page = ram.page(3)
    ram.munmap()

    with pytest.raises(tv.UserSignal) as raised:
        page.load()

    assert (raised.value.signal, raised.value.code) == ("SIGSEGV", "SEGV_MAPERR")
    assert raised.value.address == page.address


def test_a_processs_wrong_tag_is_segv_mteserr(vmm: tv.Process) -> None:
    page = vmm.mmap(1, mte=True).page(0)
    page.stg(0, 7)

    assert page.ldg(0) == 7
    assert page.load(tag=7) == 0
    with pytest.raises(tv.UserSignal, match=r"SIGSEGV SEGV_MTESERR\(9\)"):
        page.load(tag=8)


def test_tags_without_prot_mte_read_zero_and_are_not_written(vmm: tv.Process) -> None:
    page = vmm.mmap(1).page(0)
    page.stg(0, 7)

    assert page.ldg(0) == 0


def test_a_pages_tags_go_in_and_come_out_as_an_array(vmm: tv.Process) -> None:
    page = vmm.mmap(1, mte=True).page(0)
    tags = np.arange(256) % 16

    page.fill_tags(tags)

    np.testing.assert_array_equal(page.tags(), tags)
    assert page.tags().dtype == np.uint8
    assert page.pagemap().mte_tagged


def test_guest_and_vmm_see_one_memory(ram: tv.Mapping, cpu: tv.Vcpu) -> None:
    cpu.store(IPA + PAGE + 8, 0x1122_3344_5566_7788)

    assert ram.page(1).load(offset=8, size=2) == 0x7788
    ram.page(1).store(0xAA, offset=15, size=1)
    assert cpu.load(IPA + PAGE + 8) == 0xAA22_3344_5566_7788


def test_copied_tags_are_the_guests(vm: tv.Vm, cpu: tv.Vcpu) -> None:
    cpu.fill_page(IPA, 3, 1)
    cpu.fill_page(IPA + PAGE, 0, 2)

    tags = vm.copy_tags_from(IPA, 2)
    vm.copy_tags_to(IPA + 2 * PAGE, tags)

    np.testing.assert_array_equal(tags[:256], (3 + np.arange(256)) % 16)
    np.testing.assert_array_equal(tags[256:], 2 * np.arange(256) % 16)
    np.testing.assert_array_equal(cpu.page_tags(IPA + 2 * PAGE), tags[:256])
    np.testing.assert_array_equal(cpu.page_tags(IPA + 3 * PAGE), tags[256:])


def test_copying_tags_past_the_memslot_is_efault(vm: tv.Vm) -> None:
    with pytest.raises(tv.LinuxError) as raised:
        vm.copy_tags_from(IPA + 15 * PAGE, 2)

    assert raised.value.errno_name == "EFAULT"
    assert raised.value.errno == 14
    assert raised.value.call == "ioctl(KVM_ARM_MTE_COPY_TAGS)"


def test_block_instructions_set_the_tags_of_their_block(cpu: tv.Vcpu) -> None:
    cpu.st2g(IPA, 1)
    cpu.stgm(IPA + 256, 0xFEDC_BA98_7654_3210)
    cpu.dc_gva(IPA + 512 | 9 << 56)
    cpu.store(IPA + 1024, 0xFF)
    cpu.stzg(IPA + 1024, 4)

    tags = cpu.page_tags(IPA)

    assert tags[:3].tolist() == [1, 1, 0]
    assert tags[16:32].tolist() == list(range(16))
    assert cpu.ldgm(IPA + 256) == 0xFEDC_BA98_7654_3210
    assert tags[32:37].tolist() == [9, 9, 9, 9, 0]
    assert cpu.load(IPA + 1024 | 4 << 56) == 0


def test_zeroing_blocks_zero_the_data_and_check_or_set_the_tags(cpu: tv.Vcpu) -> None:
    cpu.store(IPA + 8, 0xFF)
    cpu.dc_zva(IPA)
    cpu.store(IPA + 64, 0xFF)
    cpu.dc_gzva(IPA + 64 | 3 << 56)

    assert cpu.load(IPA + 8) == 0
    assert cpu.ldg(IPA) == 0
    assert cpu.load(IPA + 64 | 3 << 56) == 0
    with pytest.raises(tv.GuestException, match="tag check"):
        cpu.dc_zva(IPA + 64)


def test_memslots_are_numbered_from_the_lowest_free_one(vmm: tv.Process, ram: tv.Mapping) -> None:
    vm = vmm.create_vm(mte=True)

    slots = [vm.add_memslot(IPA + 4 * PAGE * i, ram, first=4 * i, pages=4) for i in range(3)]
    vm.remove_memslot(1)
    again = vm.add_memslot(IPA + 4 * PAGE, ram, first=4, pages=4)

    assert slots == [0, 1, 2]
    assert again == 1


def test_overlapping_memslots_are_refused(vm: tv.Vm, ram: tv.Mapping) -> None:
    with pytest.raises(tv.LinuxError, match=r"KVM_SET_USER_MEMORY_REGION.*EEXIST"):
        vm.add_memslot(IPA + PAGE, ram)


def test_a_closed_vm_answers_ebadf(vm: tv.Vm, cpu: tv.Vcpu, ram: tv.Mapping) -> None:
    vm.destroy()

    with pytest.raises(tv.LinuxError, match="EBADF"):
        cpu.load(IPA)
    with pytest.raises(tv.LinuxError, match="EBADF"):
        vm.vcpu()
    with pytest.raises(tv.LinuxError, match="EBADF"):
        vm.destroy()
    assert ram.page(0).load() == 0


def test_mte_cannot_be_enabled_once_a_vcpu_exists(vmm: tv.Process) -> None:
    vm = vmm.create_vm()
    vm.vcpu()

    with pytest.raises(tv.LinuxError, match="KVM_ENABLE_CAP"):
        vm.enable_mte()


def test_discarded_memory_reads_zero(ram: tv.Mapping, cpu: tv.Vcpu) -> None:
    cpu.store(IPA, 1)
    cpu.store(IPA + PAGE, 2)

    ram.dontneed(first=0, pages=1)

    assert cpu.load(IPA) == 0
    assert cpu.load(IPA + PAGE) == 2


def test_mprotect_takes_the_right_to_write_away(ram: tv.Mapping) -> None:
    ram.mprotect("r", first=2, pages=1)
    ram.page(1).store(1)

    with pytest.raises(tv.UserSignal, match="SEGV_ACCERR"):
        ram.page(2).store(1)


def test_memory_mapped_over_a_mapping_replaces_it(vmm: tv.Process, ram: tv.Mapping) -> None:
    ram.page(0).store(5)

    over = vmm.mmap(1, at=ram)

    assert over.address == ram.address
    assert ram.page(0).load() == 0


def test_swapoff_brings_pages_back_with_their_tags(
    host: tv.Host, ram: tv.Mapping, cpu: tv.Vcpu
) -> None:
    cpu.fill_page(IPA, 1, 1)
    host.evict(ram.page(0))

    host.swapoff()

    assert ram.page(0).pagemap().present
    np.testing.assert_array_equal(cpu.page_tags(IPA), (1 + np.arange(256)) % 16)
    host.check()


def test_the_memory_limit_makes_the_host_swap(host: tv.Host, cpu: tv.Vcpu) -> None:
    host.set_memory_limit(4)

    for page in range(8):
        cpu.fill_page(IPA + page * PAGE, page, 0)

    stats = host.stats()
    assert stats["swap_outs"] >= 4
    assert stats["resident_pages"] <= 4
    assert [cpu.ldg(IPA + page * PAGE) for page in range(8)] == list(range(8))
    host.check()


def test_the_log_numbers_what_happened_and_can_be_switched_off() -> None:
    def played(*, log: bool) -> tv.Host:
        host = tv.Host(log=log)
        vmm = host.process()
        vm = vmm.create_vm(mte=True)
        vm.add_memslot(IPA, vmm.mmap(1))
        vm.vcpu().stg(IPA, 3)
        return host

    lines = played(log=True).log

    assert [line.n for line in lines] == list(range(1, len(lines) + 1))
    assert "user_mem_abort" in {line.path for line in lines}
    assert played(log=False).log == []


def test_the_same_seed_draws_the_same_tags_and_another_does_not() -> None:
    def drawn(seed: int) -> list[int]:
        vm = tv.Host(seed=seed).process().create_vm(mte=True)
        cpu = vm.vcpu()
        return [cpu.irg(IPA) >> 56 for _ in range(32)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_the_host_offers_mte_to_vms(host: tv.Host) -> None:
    assert host.check_extension_arm_mte()


def test_reprs_name_things(host: tv.Host, vmm: tv.Process, ram: tv.Mapping, vm: tv.Vm) -> None:
    assert repr(host) == "<Host linux-6.12>"
    assert repr(vmm) == "<Process 'vmm'>"
    assert repr(ram) == f"<Mapping {ram.address:#018x}, 16 pages, of 'vmm'>"
    assert repr(ram.page(1)) == f"<Page {ram.address + PAGE:#018x} of 'vmm'>"
    assert repr(vm) == "<Vm of 'vmm', memslots {0: 0x50000000}>"
