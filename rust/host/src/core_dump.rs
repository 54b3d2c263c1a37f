//! Which ranges of a process a core dump has tags of.
//!
//! **Models** the `PT_AARCH64_MEMTAG_MTE` segments (arch/arm64/kernel/elfcore.c): one for each `VM_MTE` mapping, 128 bytes a
//! page, and of how much of it (the knob `core_dump_tags`): `vma_dump_size` with the default filter, which leaves out
//! private anonymous memory that was never touched and shared huge pages, or all of it. **Leaves out** the segments of data,
//! other filters than the default one, and the death of the process: it is left as it is.
//!
//! **Keeps**: what is dumped of a range is what `mte_dump_tag_range` finds (`paths/core_dump.rs`).

use tagvisor_arch::Va;

use crate::file::FileKind;
use crate::ids::MmId;
use crate::machine::Machine;
use crate::mm::{Backing, VmFlags, Vma};
use crate::ops::{Op, OpResult};
use crate::policy::CoreDumpTags;
use crate::state::Host;

/// A `PT_AARCH64_MEMTAG_MTE` segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagSegment {
    /// `p_vaddr`.
    pub va: Va,
    /// Pages of the mapping: `p_memsz`.
    pub pages: u64,
    /// One tag a byte, 256 a page; empty when nothing of the mapping is dumped. In the file they are packed, two a byte
    /// (`p_filesz`).
    pub tags: Vec<u8>,
}

impl Machine {
    /// The segments of tags that a core dump of the process has.
    pub fn core_dump(&mut self, mm: MmId) -> Vec<TagSegment> {
        if self.host.policy.core_dump_tags == CoreDumpTags::None {
            return Vec::new();
        }
        let ranges: Vec<(Va, u64, u64)> = self
            .host
            .mm(mm)
            .vmas
            .iter()
            .filter(|(_, vma)| vma.flags.contains(VmFlags::MTE))
            .map(|(start, vma)| {
                let pages = vma.end - start;
                let dumped = if self.host.dumps_tags_of(vma) { pages } else { 0 };
                (Va(start * tagvisor_arch::PAGE_SIZE), pages, dumped)
            })
            .collect();
        let mut segments = Vec::new();
        for (va, pages, dumped) in ranges {
            let tags = match self.run(Op::DumpTagRange(mm, va, dumped)) {
                OpResult::Tags { tags, .. } => tags,
                _ => Vec::new(),
            };
            segments.push(TagSegment { va, pages, tags });
        }
        segments
    }
}

impl Host {
    /// Is the mapping dumped at all?
    fn dumps_tags_of(&self, vma: &Vma) -> bool {
        if self.policy.core_dump_tags == CoreDumpTags::WholeVma {
            return true;
        }
        let shared = vma.flags.contains(VmFlags::SHARED);
        match vma.backing {
            _ if self.is_hugetlb(vma) => !shared,
            Backing::File(file) if shared => self.file(file).kind == FileKind::Shmem,
            _ => vma.flags.contains(VmFlags::ANON_VMA),
        }
    }
}
