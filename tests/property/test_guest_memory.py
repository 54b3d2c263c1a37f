"""A guest's memory under host pressure against the plainest memory there is: two dictionaries.

Under a policy that holds, whatever the host does behind the guest's back is invisible to it: every
tag and every byte the guest wrote is there when it looks.
"""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import tagvisor as tv

IPA = 0x5000_0000
PAGES = 2
GRANULES = PAGES * 256

tags = st.integers(0, 15)
pages = st.integers(0, PAGES - 1)
# Few places, so that what is done meets what was done before: the first and the last 64 bytes of
# each page.
blocks = st.sampled_from([page * 64 + block for page in range(PAGES) for block in (0, 63)])
granules = st.builds(lambda block, within: 4 * block + within, blocks, st.integers(0, 3))

actions = st.one_of(
    st.tuples(st.just("stg"), granules, tags),
    st.tuples(st.just("st2g"), granules.filter(lambda at: at + 1 < GRANULES), tags),
    st.tuples(st.just("stzg"), granules, tags),
    st.tuples(st.just("stgm"), blocks.map(lambda block: block // 4), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("dc_gva"), blocks, tags),
    st.tuples(st.just("dc_gzva"), blocks, tags),
    st.tuples(st.just("store"), granules, st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("evict"), pages, st.just(0)),
    st.tuples(st.just("vmm reads"), pages, st.just(0)),
    st.tuples(st.just("mprotect"), pages, st.just(0)),
)


class Plain:
    """What the guest wrote: a tag and a word for each granule."""

    def __init__(self) -> None:
        self.tags: dict[int, int] = dict.fromkeys(range(GRANULES), 0)
        self.words: dict[int, int] = dict.fromkeys(range(GRANULES), 0)

    def act(self, what: str, where: int, value: int) -> None:
        match what:
            case "stg":
                self.tags[where] = value
            case "st2g":
                self.tags[where] = self.tags[where + 1] = value
            case "stzg":
                self.tags[where] = value
                self.words[where] = 0
            case "stgm":
                for i in range(16):
                    self.tags[16 * where + i] = value >> 4 * i & 15
            case "dc_gva" | "dc_gzva":
                for granule in range(4 * where, 4 * where + 4):
                    self.tags[granule] = value
                    if what == "dc_gzva":
                        self.words[granule] = 0
            case "store":
                self.words[where] = value


def address(granule: int) -> int:
    return IPA + 16 * granule


@pytest.mark.parametrize("policy", ["linux-5.14", "linux-6.12"])
@pytest.mark.parametrize("swap_kind", ["nvme", "zram"])
@given(script=st.lists(actions, min_size=10, max_size=40))
def test_what_the_host_does_is_invisible_to_the_guest(
    policy: str, swap_kind: tv.host.SwapKind, script: list[tuple[str, int, int]]
) -> None:
    host = tv.Host(policy, memory="1 MiB", swap="1 MiB", swap_kind=swap_kind)
    vmm = host.process()
    ram = vmm.mmap(PAGES)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    plain = Plain()

    for what, where, value in script:
        plain.act(what, where, value)
        match what:
            case "stg" | "st2g" | "stzg":
                getattr(cpu, what)(address(where), value)
            case "stgm":
                cpu.stgm(address(16 * where), value)
            case "dc_gva" | "dc_gzva":
                getattr(cpu, what)(address(4 * where), value)
            case "store":
                cpu.store(address(where) | plain.tags[where] << 56, value)
            case "evict":
                if ram.page(where).pagemap().present:
                    host.evict(ram.page(where))
            case "vmm reads":
                ram.page(where).load()
            case "mprotect":
                ram.mprotect("r", first=where, pages=1)
                ram.mprotect("rw", first=where, pages=1)

    for page in range(PAGES):
        expected = [plain.tags[256 * page + i] for i in range(256)]
        assert cpu.page_tags(address(256 * page)).tolist() == expected
    for granule, word in plain.words.items():
        if granule % 256 < 4 or granule % 256 >= 252:
            assert cpu.load(address(granule) | plain.tags[granule] << 56) == word
    host.check()
    assert host.violations == []
