//! The ledger: who owns which tags, and whether the kernel kept its promise.
//!
//! **Models** ghost state beside the machine (`content.rs`): what every page of every process and file should hold, and
//! whose tags lie in each frame and saved buffer.
//!
//! **Decides** P1 no-loss and P2 no-leak at every tag read (LDG, a checked access, `KVM_ARM_MTE_COPY_TAGS`), P3 where the
//! flag is believed and P4 where a mapping is made (`flags.rs`), P5 taggable at every stage-2 mapping, P6 metadata life
//! whenever no operation is under way, P7 where a VMM writes tags (`migration.rs`), P9 where a guest reaches a tag
//! (`sanity.rs`); and all of P1, P3, P4, P6 and P8 at [`Host::audit`].
//!
//! **Keeps**: nothing here is read by a kernel path; with the ledger off only the verdicts are missing.

mod content;
mod flags;
mod migration;
mod sanity;
#[cfg(test)]
mod tests;

use tagvisor_arch::{GRANULES_PER_PAGE, Ipa, PageTags, Pfn, Tag, Va};

pub(crate) use self::content::Ledger;
use self::content::{Content, ContentId, Home};
use crate::file::Cached;
use crate::ids::{Actor, MmId, VmId};
use crate::log::{Key, note};
use crate::mm::{Backing, Pte, VmFlags};
use crate::page::PageFlags;
use crate::state::Host;
use crate::verdict::{Property, Violation};

impl Host {
    /// Where the content at an address lives: in the process, or in the file that is mapped there. A private mapping shows
    /// the file's until it is written.
    fn home(&self, (mm, va): (MmId, Va), write: bool) -> Home {
        let private = Home::Private(mm, va.vpn());
        if self.ledger.has(private) {
            return private;
        }
        match self.mm(mm).vma(va) {
            // A private mapping of huge pages never shows its file.
            Some((_, vma)) if self.is_hugetlb(vma) && !vma.flags.contains(VmFlags::SHARED) => private,
            Some((start, vma)) if !write || vma.flags.contains(VmFlags::SHARED) => match vma.backing {
                Backing::File(file) => Home::File(file, vma.offset + (va.vpn() - start)),
                _ => private,
            },
            Some(_) => private,
            None => self.gmem_home((mm, va)).unwrap_or(private),
        }
    }

    /// A guest's page that no mapping of the VMM shows: it lives in the `guest_memfd` of a memslot.
    fn gmem_home(&self, (mm, va): (MmId, Va)) -> Option<Home> {
        let of_mm = self.vms.iter().filter(|vm| vm.alive && vm.mm == mm);
        of_mm.flat_map(|vm| vm.slots.values()).find_map(|slot| {
            let (file, first) = slot.gmem?;
            let page = va
                .vpn()
                .checked_sub(slot.userspace_addr.vpn())
                .filter(|page| *page < slot.pages)?;
            Some(Home::File(file, first + page))
        })
    }

    /// The content at an address, as its owner writes to it: from here on it is shared with nobody it should not be.
    fn content_to_write(&mut self, at: (MmId, Va)) -> ContentId {
        let (from, to) = (self.home(at, false), self.home(at, true));
        self.ledger.own(from, to)
    }

    /// A private copy was made of the page at an address (copy on write): it is its process' own from now on.
    pub(crate) fn ledger_copied_on_write(&mut self, at: (MmId, Va)) {
        if self.ledger.enabled {
            self.content_to_write(at);
        }
    }

    /// A copy of a merged page is the page at an address, and nobody else's.
    pub(crate) fn ledger_unmerged(&mut self, pfn: Pfn, at: (MmId, Va)) {
        if self.ledger.enabled {
            let home = self.home(at, false);
            self.ledger.unmerged(pfn, home);
        }
    }

    /// All tags of the frame were written for the page at an address (cleared, or copied in).
    pub(crate) fn ledger_initialised(&mut self, pfn: Pfn, at: (MmId, Va)) {
        if self.ledger.enabled {
            let home = self.home(at, false);
            self.ledger.initialised(pfn, home);
        }
    }

    /// The rightful owner wrote a tag.
    pub(crate) fn ledger_tag_written(&mut self, pfn: Pfn, granule: usize, tag: Tag, at: (MmId, Va), writer: Actor) {
        if self.ledger.enabled {
            let content = self.content_to_write(at);
            self.ledger.tag_written(pfn, granule, tag, content, writer);
        }
    }

    /// A tag was read at a page: does the reader see what the owner wrote? `value` is what was returned.
    pub(crate) fn ledger_tag_read(&mut self, pfn: Pfn, granule: usize, value: Tag, at: (MmId, Va), reader: Actor) {
        if !self.ledger.enabled || !self.mem.has_tags(pfn) {
            return;
        }
        let home = self.home(at, false);
        let content = self.ledger.content(home);
        let provenance = self.ledger.provenance(pfn);
        let want = self.ledger.get(content).want.get(granule);
        let zero_page = self.has_flag(pfn, PageFlags::RESERVED);
        if zero_page || self.ledger.holds(&provenance, content, granule) {
            if value != want {
                let summary = self.loss_summary(content, granule, value, &format!("{} reads", self.actor_name(reader)));
                self.report(
                    Property::NoLoss,
                    u64::from(content),
                    summary,
                    &self.keys_of(content, pfn),
                );
            }
        } else {
            let left_by = if provenance.owner == Some(content) {
                provenance.before
            } else {
                provenance.owner
            };
            let summary = format!(
                "{} reads tag {value} of granule {granule} of {}, but pfn {:#x} holds tags left by {}",
                self.actor_name(reader),
                self.place(at.0, at.1),
                pfn.0,
                left_by.map_or_else(|| "nobody since boot".to_owned(), |c| self.content_name(c)),
            );
            let mut keys = self.keys_of(content, pfn);
            keys.extend(left_by.map(|c| self.content_key(c)));
            self.report(Property::NoLeak, u64::from(content), summary, &keys);
        }
    }

    /// A stage-2 mapping was made: tag-capable, of memory that can hold tags?
    pub(crate) fn ledger_mapped(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, at: (MmId, Va)) {
        if !self.ledger.enabled {
            return;
        }
        if self.mem.has_tags(pfn) {
            self.ledger_mapped_flag(vm, ipa, pfn, at);
        } else {
            let region = self.mem.region_of(pfn).map_or_else(String::new, |r| r.name.to_string());
            let summary = format!(
                "ipa {} of an MTE VM is mapped Normal Write-Back to pfn {:#x} of {region}, which has no tag storage",
                ipa.page(),
                pfn.0
            );
            self.report(
                Property::Taggable,
                vm.0.into(),
                summary,
                &[Key::Frame(pfn), Key::page(at.0, at.1)],
            );
        }
    }

    /// No operation is under way: `mte_pages[e]` must exist exactly for the allocated slots that hold tags (P6).
    pub fn ledger_quiesce(&mut self) {
        for entry in self.ledger.take_touched() {
            let (allocated, present) = (self.swap.is_allocated(entry), self.mte_pages.contains(entry));
            let wanted = self.ledger.has_saved(entry);
            if allocated && !present && wanted {
                let summary = format!("mte_pages[{entry}] was erased while swap slot {entry} is still in use");
                self.report(Property::MetadataLife, entry.val(), summary, &[Key::Slot(entry)]);
            } else if !allocated && present {
                let summary = format!("mte_pages[{entry}] is left over: swap slot {entry} is free");
                self.report(Property::MetadataLife, entry.val(), summary, &[Key::Slot(entry)]);
            }
        }
    }

    /// Looks at everything while no operation is under way: finds a broken promise before anybody meets it.
    pub fn audit(&mut self) {
        if self.ledger.enabled {
            self.ledger_quiesce();
            self.audit_contents();
            self.audit_flags();
            self.audit_sanity();
        }
    }

    /// Every content: are its tags somewhere the kernel will find them?
    fn audit_contents(&mut self) {
        for (home, content) in self.ledger.homes() {
            let want = self.ledger.get(content).want;
            if want == PageTags::ZERO {
                continue;
            }
            let Some((found, place, keys)) = self.tags_kept(home, content) else {
                continue;
            };
            if let Some(granule) = (0..GRANULES_PER_PAGE).find(|g| found.get(*g) != want.get(*g)) {
                let summary = self.loss_summary(content, granule, found.get(granule), &format!("{place} holds"));
                self.report(Property::NoLoss, content.into(), summary, &keys);
            }
        }
    }

    /// The tags that a content would be found with, where they are kept, and what that is about; `None` for memory without
    /// tags.
    fn tags_kept(&self, home: Home, content: ContentId) -> Option<(PageTags, String, Vec<Key>)> {
        let place = match home {
            Home::Private(mm, vpn) => match self.mm(mm).ptes.get(&vpn).copied() {
                Some(Pte::Present { pfn, .. } | Pte::Migration { pfn, .. }) => Some(Cached::Page(pfn)),
                Some(Pte::Hwpoison(_)) => return None,
                Some(Pte::Swap(entry)) => Some(Cached::Swap(entry)),
                None => None,
            },
            Home::File(file, index) => self.file(file).cache.get(&index).copied(),
        };
        // Where the swap cache has the page, and the page its tags, that is where the next fault finds them.
        let place = place.map(|place| match place {
            Cached::Swap(entry) => match self.swap.lookup(entry) {
                Some(pfn) if self.has_flag(pfn, PageFlags::MTE_TAGGED) => Cached::Page(pfn),
                _ => place,
            },
            Cached::Page(_) => place,
        });
        Some(match place {
            Some(Cached::Page(pfn)) if self.mem.has_tags(pfn) => {
                let flagged = self.has_flag(pfn, PageFlags::MTE_TAGGED);
                let tags = if flagged {
                    self.mem.page_tags(pfn)
                } else {
                    PageTags::ZERO
                };
                (tags, format!("pfn {:#x}", pfn.0), self.keys_of(content, pfn))
            }
            Some(Cached::Page(_)) => return None,
            Some(Cached::Swap(entry)) => {
                let tags = self.mte_pages.load(entry).copied().unwrap_or(PageTags::ZERO);
                let keys = vec![Key::Slot(entry), self.content_key(content)];
                (tags, format!("mte_pages[{entry}]"), keys)
            }
            None => (PageTags::ZERO, "no page".to_owned(), vec![self.content_key(content)]),
        })
    }

    fn loss_summary(&self, content: ContentId, granule: usize, value: Tag, who: &str) -> String {
        let Content { want, writer, .. } = self.ledger.get(content);
        let wrote = writer.0.map_or_else(
            || "nobody wrote one (0)".to_owned(),
            |w| format!("{} wrote {}", self.actor_name(w), want.get(granule)),
        );
        format!(
            "{who} tag {value} of granule {granule} of {}, but {wrote}",
            self.content_name(content)
        )
    }

    fn content_name(&self, content: ContentId) -> String {
        let home = self.ledger.get(content).home;
        let gone = if self.ledger.lives(content) {
            ""
        } else {
            " (discarded since)"
        };
        match home {
            Home::Private(mm, vpn) => format!("{}{gone}", self.place(mm, Va(vpn << 12))),
            Home::File(file, index) => format!("file {} page {index}{gone}", file.0),
        }
    }

    fn content_key(&self, content: ContentId) -> Key {
        match self.ledger.get(content).home {
            Home::Private(mm, vpn) => Key::Page(mm, vpn),
            Home::File(file, index) => Key::File(file, index),
        }
    }

    fn keys_of(&self, content: ContentId, pfn: Pfn) -> Vec<Key> {
        vec![self.content_key(content), Key::Frame(pfn)]
    }

    fn report(&mut self, property: Property, subject: u64, summary: String, keys: &[Key]) {
        if self.ledger.report_once(property, subject) {
            // The story ends with the step that broke the promise.
            note!(self, [keys[0]], "{}: {summary}", property.id());
            let steps = self.log.story(keys);
            self.violations.push(Violation {
                property,
                summary,
                steps,
            });
        }
    }
}
