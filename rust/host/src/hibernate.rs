//! Hibernation: RAM loses its tags, and gets back those that were saved.
//!
//! **Models** `swsusp_mte_save_tags` and `swsusp_mte_restore_tags` (arch/arm64/kernel/hibernate.c): before the image is made the tags
//! of each online page whose own `PG_mte_tagged` is set are copied to a store keyed by frame, which is part of the image; once
//! memory is as it was, they are written back. A page that is not flagged has no tags worth keeping, and comes back with
//! whatever the boot in between left. **Leaves out** the image itself (all data come back) and the space it needs in swap.
//!
//! **Keeps**: user space is frozen, so nothing runs beside it: it is one operation, not a path of steps.

use std::collections::BTreeMap;

use tagvisor_arch::{PageTags, Pfn, Tag};

use crate::errno::Errno;
use crate::ids::Actor;
use crate::log::{Key, note};
use crate::machine::Machine;
use crate::page::PageFlags;
use crate::state::Host;

/// What memory has after a power cycle: anything. The model's choice is a tag that nobody writes by accident.
const AFTER_POWER_ON: Tag = Tag::new(0xf);

impl Machine {
    /// Suspend to disk, and resume; how many pages had their tags saved. -ENODEV: no swap device is on. -ENOMEM: no memory for
    /// the tags of some page, and the machine goes on as if nothing had been.
    pub fn hibernate(&mut self) -> Result<u64, Errno> {
        self.origin(Actor::Admin, "hibernate");
        if self.host.swap.free_slots() + self.host.swap.used_slots() == 0 {
            return Err(Errno::Enodev);
        }
        let saved = self.host.swsusp_mte_save_tags()?;
        self.host.power_cycle();
        self.host.swsusp_mte_restore_tags(&saved);
        self.host.ledger_quiesce();
        Ok(saved.len() as u64)
    }
}

impl Host {
    /// Frames of RAM that were ever used, with the tag flag of each `struct page` itself.
    fn online_pages(&self) -> Vec<(Pfn, bool)> {
        let own = |(pfn, page): (Pfn, &crate::page::Page)| (pfn, page.flags.contains(PageFlags::MTE_TAGGED));
        let online = |(pfn, _): &(Pfn, bool)| self.pfn_online(*pfn) && self.mem.has_tags(*pfn);
        self.pages.iter(&self.mem).map(own).filter(online).collect()
    }

    /// Of a huge page of the pool only the head is flagged (K32 = supported): the tags of the other pages are not saved.
    fn swsusp_mte_save_tags(&mut self) -> Result<BTreeMap<Pfn, PageTags>, Errno> {
        let mut saved = BTreeMap::new();
        for (pfn, _) in self.online_pages().into_iter().filter(|(_, flagged)| *flagged) {
            if self.failing_tag_saves.next() {
                self.stats.tag_save_failures += 1;
                return Err(Errno::Enomem);
            }
            saved.insert(pfn, self.mem.page_tags(pfn));
            note!(
                self,
                [Key::Frame(pfn)],
                "tags of pfn {:#x} saved for hibernation",
                pfn.0
            );
        }
        Ok(saved)
    }

    /// Data come back with the image, tags do not. The zero page is the booted kernel's, which has cleared its tags.
    fn power_cycle(&mut self) {
        for (pfn, _) in self.online_pages() {
            if pfn != self.zero_pfn {
                self.mem.set_page_tags(pfn, &PageTags::uniform(AFTER_POWER_ON));
            }
        }
    }

    fn swsusp_mte_restore_tags(&mut self, saved: &BTreeMap<Pfn, PageTags>) {
        for (pfn, _) in self.online_pages() {
            let Some(tags) = saved.get(&pfn) else {
                if pfn != self.zero_pfn {
                    self.ledger.tags_gone(pfn);
                    note!(
                        self,
                        [Key::Frame(pfn)],
                        "tags of pfn {:#x} did not survive hibernation",
                        pfn.0
                    );
                }
                continue;
            };
            self.mem.set_page_tags(pfn, tags);
            note!(
                self,
                [Key::Frame(pfn)],
                "tags of pfn {:#x} restored after hibernation",
                pfn.0
            );
        }
    }
}
