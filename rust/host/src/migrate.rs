//! What a VMM needs that migrates a guest: whole pages of data, and the truth about tags for the judge on the other side.
//!
//! **Models** a VMM that copies guest memory through its own mapping, as user accesses like any other. The protocol itself
//! (rounds, dirty logs, `KVM_ARM_MTE_COPY_TAGS`) is user space's, in Python. Pages that are still missing are asked for
//! through userfaultfd (`paths/userfault.rs`).
//!
//! **Keeps**: what the guest wrote on its source host is what it must find on its new one; the ledger there is told so.

use tagvisor_arch::{PAGE_SIZE, PageTags, Va};

use crate::errno::{Errno, Signal};
use crate::ids::{Actor, MmId};
use crate::machine::Machine;
use crate::ops::Op;

/// Bytes of one access.
const WORD: u64 = 8;

impl Machine {
    /// Loads of a whole page by the process.
    pub fn user_read_page(&mut self, mm: MmId, page: Va) -> Result<Vec<u8>, Signal> {
        let mut data = Vec::with_capacity(PAGE_SIZE as usize);
        self.page_words(|machine, offset| {
            let word = machine.user_load(mm, page + offset, WORD as u8)?;
            data.extend(word.to_le_bytes());
            Ok(())
        })?;
        Ok(data)
    }

    /// Stores of a whole page by the process. `data` is a page; what it lacks stays as it is.
    pub fn user_write_page(&mut self, mm: MmId, page: Va, data: &[u8]) -> Result<(), Signal> {
        let (words, _) = data.as_chunks::<{ WORD as usize }>();
        self.page_words(|machine, offset| match words.get((offset / WORD) as usize) {
            Some(word) => machine.user_store(mm, page + offset, WORD as u8, u64::from_le_bytes(*word)),
            None => Ok(()),
        })
    }

    /// Each word of a page in turn. The log has the first access, which brings the page in; the others tell nothing new.
    fn page_words(&mut self, mut access: impl FnMut(&mut Self, u64) -> Result<(), Signal>) -> Result<(), Signal> {
        let logs = self.host.log.enabled;
        let done = (0..PAGE_SIZE / WORD).try_for_each(|word| {
            self.host.log.enabled = logs && word == 0;
            access(self, word * WORD)
        });
        self.host.log.enabled = logs;
        done
    }

    /// `UFFDIO_REGISTER`: user space brings the pages of a range from now on. -EINVAL: a hole, or memory that is not
    /// anonymous and private.
    pub fn uffd_register(&mut self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        self.origin(Actor::Process(mm), "UFFDIO_REGISTER");
        self.host.userfaultfd_register(mm, va, pages)
    }

    /// Pages that were touched and are missing, in the order of their addresses: what a read of the userfaultfd tells.
    pub fn uffd_read(&self, mm: MmId) -> Vec<Va> {
        self.host.mm(mm).userfaults.iter().copied().collect()
    }

    /// `UFFDIO_COPY` of a page. -ENOENT: not registered; -EEXIST: it is there already; -EINVAL: not a page's address, or
    /// more data than a page has.
    pub fn uffd_copy(&mut self, mm: MmId, va: Va, data: &[u8]) -> Result<(), Errno> {
        if va.page_offset() != 0 || data.len() as u64 > PAGE_SIZE {
            return Err(Errno::Einval);
        }
        let data = data.to_vec();
        self.syscall(Op::UffdCopy { mm, va, data }).map(drop)
    }

    /// `UFFDIO_MOVE` of a page to where it is missing. -EINVAL: no such ioctl, not a page's address, mappings that are not both
    /// private, anonymous, writable and of the same protection (`PROT_MTE` included), or not registered; -ENOENT: no mapping,
    /// or nothing at the source; -EEXIST: something is there; -EBUSY: others have the page too; -EAGAIN: it changed meanwhile.
    pub fn uffd_move(&mut self, mm: MmId, to: Va, from: Va) -> Result<(), Errno> {
        if to.page_offset() != 0 || from.page_offset() != 0 || to == from {
            return Err(Errno::Einval);
        }
        self.syscall(Op::UffdMove { mm, to, from }).map(drop)
    }

    /// What every tag read of a page must return, as the ledger has it; `None` with the ledger off, and where nobody was.
    pub fn ledger_tags(&self, mm: MmId, page: Va) -> Option<PageTags> {
        self.host.ledger_wanted((mm, page))
    }

    /// A page came here by migration: its owner wrote those tags before, on another host.
    pub fn ledger_adopt(&mut self, mm: MmId, page: Va, tags: &PageTags) {
        self.host.ledger_adopted((mm, page), tags);
    }
}
