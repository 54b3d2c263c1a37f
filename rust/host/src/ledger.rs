//! The ledger: who owns which tags, and whether the kernel kept its promise.
//!
//! **Models** ghost state beside the machine. A *content* is what a process has at one page address from its first touch
//! until it is discarded (munmap, `MADV_DONTNEED`); for each granule of a content the ledger knows the tag its owner last
//! wrote. A frame, and a saved buffer, has a *provenance*: whose tags lie in it, and which granules were initialised for
//! that owner. Provenance, not value, decides a leak: a stale 0 is a leak too.
//!
//! **Decides** P1 no-loss and P2 no-leak at every tag read (LDG, a checked access, `KVM_ARM_MTE_COPY_TAGS`), P5 taggable at
//! every stage-2 mapping, P6 metadata life whenever no operation is under way, and all of P1 and P6 at [`Host::audit`].
//! **Leaves out** P3, P4 and P7-P9.
//!
//! **Keeps**: nothing here is read by a kernel path; with the ledger off only the verdicts are missing.

use std::collections::{BTreeMap, BTreeSet};

use tagvisor_arch::{GRANULES_PER_PAGE, Ipa, PageTags, Pfn, Tag, Va};

use crate::ids::{Actor, MmId, VmId};
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::page::PageFlags;
use crate::state::Host;
use crate::swap::SwpEntry;
use crate::verdict::{Property, Violation};

/// Index of a content; never reused.
type ContentId = u32;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Content {
    mm: MmId,
    vpn: u64,
    /// What every tag read must return.
    want: PageTags,
    /// Who wrote a tag last; `None` while nobody did.
    writer: Option<Actor>,
}

/// Whose tags lie in a frame or a saved buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Provenance {
    /// The content they were initialised for; `None` before anybody did (as after boot).
    owner: Option<ContentId>,
    /// Granules that were; the others still hold what `before` left.
    initialised: [u64; GRANULES_PER_PAGE / 64],
    before: Option<ContentId>,
}

impl Provenance {
    fn whole(owner: ContentId, before: Option<ContentId>) -> Self {
        Self {
            owner: Some(owner),
            initialised: [u64::MAX; GRANULES_PER_PAGE / 64],
            before,
        }
    }

    fn holds(&self, content: ContentId, granule: usize) -> bool {
        self.owner == Some(content) && self.initialised[granule / 64] >> (granule % 64) & 1 == 1
    }
}

/// The ghost state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ledger {
    pub(crate) enabled: bool,
    contents: Vec<Content>,
    by_page: BTreeMap<(MmId, u64), ContentId>,
    frames: BTreeMap<Pfn, Provenance>,
    saved: BTreeMap<SwpEntry, Provenance>,
    /// Slots whose life changed since the last quiet moment.
    touched: BTreeSet<SwpEntry>,
    /// What was reported already, so that one mistake is one violation.
    reported: BTreeSet<(Property, u64)>,
}

impl Ledger {
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            contents: Vec::new(),
            by_page: BTreeMap::new(),
            frames: BTreeMap::new(),
            saved: BTreeMap::new(),
            touched: BTreeSet::new(),
            reported: BTreeSet::new(),
        }
    }

    /// The content at a page, begun now if nobody touched it before.
    fn content(&mut self, mm: MmId, va: Va) -> ContentId {
        let contents = &mut self.contents;
        *self.by_page.entry((mm, va.vpn())).or_insert_with(|| {
            contents.push(Content {
                mm,
                vpn: va.vpn(),
                want: PageTags::ZERO,
                writer: None,
            });
            u32::try_from(contents.len() - 1).expect("fewer than 2^32 contents")
        })
    }

    fn provenance(&self, pfn: Pfn) -> Provenance {
        self.frames.get(&pfn).copied().unwrap_or_default()
    }

    /// The range of pages is discarded: what was there has no owner any more.
    pub(crate) fn discarded(&mut self, mm: MmId, va: Va, end: Va) {
        let gone: Vec<_> = self
            .by_page
            .range((mm, va.vpn())..(mm, end.vpn()))
            .map(|(k, _)| *k)
            .collect();
        for key in gone {
            self.by_page.remove(&key);
        }
    }

    /// All tags of the frame were written for the page at `va` (cleared, or copied in).
    pub(crate) fn initialised(&mut self, pfn: Pfn, mm: MmId, va: Va) {
        if self.enabled {
            let before = self.provenance(pfn).owner;
            let content = self.content(mm, va);
            self.frames.insert(pfn, Provenance::whole(content, before));
        }
    }

    /// The rightful owner wrote a tag.
    pub(crate) fn tag_written(&mut self, pfn: Pfn, granule: usize, tag: Tag, at: (MmId, Va), writer: Actor) {
        if !self.enabled {
            return;
        }
        let content = self.content(at.0, at.1);
        self.contents[content as usize].want.set(granule, tag);
        self.contents[content as usize].writer = Some(writer);
        let mut provenance = self.provenance(pfn);
        if provenance.owner != Some(content) {
            provenance = Provenance {
                owner: Some(content),
                before: provenance.owner,
                ..Provenance::default()
            };
        }
        provenance.initialised[granule / 64] |= 1 << (granule % 64);
        self.frames.insert(pfn, provenance);
    }

    /// `mte_save_tags` stored the frame's tags under the entry.
    pub(crate) fn saved(&mut self, entry: SwpEntry, pfn: Pfn) {
        if self.enabled {
            self.saved.insert(entry, self.provenance(pfn));
            self.touched.insert(entry);
        }
    }

    /// `mte_restore_tags` wrote the saved tags to the frame.
    pub(crate) fn restored(&mut self, entry: SwpEntry, pfn: Pfn) {
        if self.enabled {
            let provenance = self.saved.get(&entry).copied().unwrap_or_default();
            self.frames.insert(pfn, provenance);
        }
    }

    /// The slot may be handed out again; what was saved under it counts no longer, unless the buffer is still there.
    pub(crate) fn slot_offered(&mut self, entry: SwpEntry, left_over: bool) {
        self.slot_touched(entry);
        if !left_over {
            self.saved.remove(&entry);
        }
    }

    /// Something about the slot changed: taken, erased.
    pub(crate) fn slot_touched(&mut self, entry: SwpEntry) {
        if self.enabled {
            self.touched.insert(entry);
        }
    }
}

impl Host {
    /// A tag was read at a page: does the reader see what the owner wrote? `value` is what was returned.
    pub(crate) fn ledger_tag_read(&mut self, pfn: Pfn, granule: usize, value: Tag, at: (MmId, Va), reader: Actor) {
        if !self.ledger.enabled || !self.mem.has_tags(pfn) {
            return;
        }
        let content = self.ledger.content(at.0, at.1);
        let provenance = self.ledger.provenance(pfn);
        let want = self.ledger.contents[content as usize].want.get(granule);
        let zero_page = self.has_flag(pfn, PageFlags::RESERVED);
        if zero_page || provenance.holds(content, granule) {
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
        if self.ledger.enabled && !self.mem.has_tags(pfn) {
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
        for entry in std::mem::take(&mut self.ledger.touched) {
            let (allocated, present) = (self.swap.is_allocated(entry), self.mte_pages.contains(entry));
            let wanted = self.ledger.saved.contains_key(&entry);
            if allocated && !present && wanted {
                let summary = format!("mte_pages[{entry}] was erased while swap slot {entry} is still in use");
                self.report(Property::MetadataLife, entry.0.into(), summary, &[Key::Slot(entry)]);
            } else if !allocated && present {
                let summary = format!("mte_pages[{entry}] is left over: swap slot {entry} is free");
                self.report(Property::MetadataLife, entry.0.into(), summary, &[Key::Slot(entry)]);
            }
        }
    }

    /// Looks at every content: are its tags somewhere the kernel will find them? Finds a loss before anybody reads.
    pub fn audit(&mut self) {
        self.ledger_quiesce();
        let pages: Vec<_> = self.ledger.by_page.iter().map(|(at, c)| (*at, *c)).collect();
        for ((mm, vpn), content) in pages {
            let want = self.ledger.contents[content as usize].want;
            if want == PageTags::ZERO {
                continue;
            }
            let (found, place, keys) = match self.mm(mm).ptes.get(&vpn).copied() {
                Some(Pte::Present { pfn, .. }) if self.mem.has_tags(pfn) => {
                    let flagged = self.has_flag(pfn, PageFlags::MTE_TAGGED);
                    let tags = if flagged {
                        self.mem.page_tags(pfn)
                    } else {
                        PageTags::ZERO
                    };
                    (tags, format!("pfn {:#x}", pfn.0), self.keys_of(content, pfn))
                }
                Some(Pte::Present { .. }) => continue,
                Some(Pte::Swap(entry)) => {
                    let tags = self.mte_pages.load(entry).copied().unwrap_or(PageTags::ZERO);
                    (
                        tags,
                        format!("mte_pages[{entry}]"),
                        vec![Key::Slot(entry), self.content_key(content)],
                    )
                }
                None => (PageTags::ZERO, "no page".to_owned(), vec![self.content_key(content)]),
            };
            if let Some(granule) = (0..GRANULES_PER_PAGE).find(|g| found.get(*g) != want.get(*g)) {
                let summary = self.loss_summary(content, granule, found.get(granule), &format!("{place} holds"));
                self.report(Property::NoLoss, content.into(), summary, &keys);
            }
        }
    }

    fn loss_summary(&self, content: ContentId, granule: usize, value: Tag, who: &str) -> String {
        let Content { want, writer, .. } = &self.ledger.contents[content as usize];
        let wrote = writer.map_or_else(
            || "nobody wrote one (0)".to_owned(),
            |w| format!("{} wrote {}", self.actor_name(w), want.get(granule)),
        );
        format!(
            "{who} tag {value} of granule {granule} of {}, but {wrote}",
            self.content_name(content)
        )
    }

    fn content_name(&self, content: ContentId) -> String {
        let Content { mm, vpn, .. } = self.ledger.contents[content as usize];
        let gone = if self.ledger.by_page.get(&(mm, vpn)) == Some(&content) {
            ""
        } else {
            " (discarded since)"
        };
        format!("{}{gone}", self.place(mm, Va(vpn << 12)))
    }

    fn content_key(&self, content: ContentId) -> Key {
        let Content { mm, vpn, .. } = self.ledger.contents[content as usize];
        Key::Page(mm, vpn)
    }

    fn keys_of(&self, content: ContentId, pfn: Pfn) -> Vec<Key> {
        vec![self.content_key(content), Key::Frame(pfn)]
    }

    fn report(&mut self, property: Property, subject: u64, summary: String, keys: &[Key]) {
        if self.ledger.reported.insert((property, subject)) {
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
