"""Bugs of the list that this model does not show, and why.

Models nothing. Invariant: a bug is in the catalogue or here, never in both.
"""

from __future__ import annotations

from tagvisor.bugs.row import LeftOut

__all__ = ["LEFT_OUT"]

LEFT_OUT = (
    LeftOut(
        "B13",
        "tags restored twice for a page in the swap cache",
        "a warning in a version of B12's mend that was never merged, no tag was wrong",
    ),
    LeftOut(
        "B17",
        "mmap_lock leaked when a memslot is refused (5.14)",
        "a lock leak: every later mmap of the VMM sleeps for ever, no tag is concerned",
    ),
    LeftOut(
        "B18",
        "nVHE: a host pointer dereferenced in enter_exception64",
        "a crash at EL2 before any tag is touched; the model has no nVHE hypervisor",
    ),
    LeftOut(
        "B23",
        "COPY_TAGS of 4 GiB returns its count in an int",
        "a wrong answer of an ioctl, no tag was wrong; the check is the knob copy_tags_length",
    ),
    LeftOut(
        "B26",
        "copy_highpage leaves a random KASAN page tag on the copy",
        "about the kernel's own pointers under KASAN HW_TAGS, which the model does not have",
    ),
    LeftOut(
        "B27",
        "page_kasan_tag_reset races with readers of page->flags",
        "about the kernel's own pointers under KASAN HW_TAGS, which the model does not have",
    ),
    LeftOut(
        "B28",
        "tags cleared before PROT_MTE was refused",
        "needs a driver whose mmap inserts kernel pages (packet socket rings)",
    ),
    LeftOut(
        "B29",
        "hot-added memory mapped untagged in the linear map",
        "about the kernel's own mapping; the model writes tags by frame, not through one",
    ),
    LeftOut(
        "B30",
        "PEEKMTETAGS of the zero page answers EIO",
        "an answer of ptrace to be told, not a tag to be judged",
    ),
    LeftOut(
        "B37",
        "copy_highpage warns for hugetlb subpages",
        "a warning in a release candidate, no tag was wrong",
    ),
    LeftOut(
        "B39",
        "soft lockup clearing the tags of a 1 GiB page",
        "about time: the model has none",
    ),
    LeftOut(
        "B42",
        "MTE_frac advertised wrongly",
        "a field of an ID register, no tag was wrong",
    ),
    LeftOut(
        "B43",
        "device memory refused when the memslot is made, accepted when mapped later",
        "an inconsistency: it is mapped Device, so no property is broken",
    ),
    LeftOut(
        "B44",
        "core dump frees its tag buffer twice",
        "a double free on a write error, no tag was wrong",
    ),
    LeftOut(
        "B45",
        "pKVM: the host reaches guest tags through the tag carve-out",
        "a design question of protected VMs, which the model does not have",
    ),
    LeftOut(
        "B48",
        "mmu_lock leaked when the fault's memory is refused (v11, v16)",
        "a lock leak: the next fault deadlocks, no tag is concerned",
    ),
)
