//! Contents and provenance: the ledger's ghost state.
//!
//! **Models** a *content*: what a process has at one page address from its first touch until it is discarded (munmap,
//! `MADV_DONTNEED`), or what a file has at one page until it is truncated or punched out. For each granule of a content the
//! ledger knows the tag its owner last wrote. After fork parent and child have one content; whoever writes first gets a
//! content of its own that descends from it. A frame, and a saved buffer, has a *provenance*: whose tags lie in it, and
//! which granules were initialised for that owner. Provenance, not value, decides a leak: a stale 0 is a leak too.
//!
//! **Keeps**: a content is never reused; a frame whose tags belong to an ancestor of a content may be read for it.

use std::collections::{BTreeMap, BTreeSet};

use tagvisor_arch::{GRANULES_PER_PAGE, PageTags, Pfn, Tag, Va};

use crate::file::FileId;
use crate::ids::{Actor, MmId};
use crate::swap::SwpEntry;
use crate::verdict::Property;

/// Index of a content; never reused.
pub(super) type ContentId = u32;

/// Where a content lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Home {
    /// A page of a process that only it has (anonymous, or a private copy of a file's).
    Private(MmId, u64),
    /// A page of a file.
    File(FileId, u64),
}

/// What is only told, and decides nothing: states that differ in it alone are one.
#[derive(Clone, Debug)]
pub(super) struct Told<T>(pub(super) T);

impl<T> PartialEq for Told<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Told<T> {}

impl<T> std::hash::Hash for Told<T> {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Content {
    /// Where it began.
    pub(super) home: Home,
    /// What every tag read must return.
    pub(super) want: PageTags,
    /// Who wrote a tag last; `None` while nobody did.
    pub(super) writer: Told<Option<Actor>>,
    /// The content it was split from.
    parent: Option<ContentId>,
    /// How many homes have it: more than one after fork.
    homes: u32,
}

/// Whose tags lie in a frame or a saved buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Provenance {
    /// The content they were initialised for; `None` before anybody did (as after boot).
    pub(super) owner: Option<ContentId>,
    /// Granules that were; the others still hold what `before` left.
    initialised: [u64; GRANULES_PER_PAGE / 64],
    pub(super) before: Option<ContentId>,
    /// One page for many contents (KSM): what was initialised is so for each of them.
    merged: bool,
}

impl Provenance {
    /// One page for many contents, all of whose tags were initialised: so it is for whoever comes to share it.
    pub(super) fn initialised_for_all(&self) -> bool {
        self.merged && self.initialised == [u64::MAX; GRANULES_PER_PAGE / 64]
    }
}

/// The ghost state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ledger {
    pub(crate) enabled: bool,
    contents: Vec<Content>,
    by_home: BTreeMap<Home, ContentId>,
    frames: BTreeMap<Pfn, Provenance>,
    saved: BTreeMap<SwpEntry, Provenance>,
    /// Slots whose life changed since the last quiet moment.
    touched: BTreeSet<SwpEntry>,
    /// Guest pages (VM, frame) whose tags the VMM has read while their slot logs writes: on their way to another host.
    pub(super) migrating: BTreeSet<(u32, u64)>,
    /// What was reported already, so that one mistake is one violation.
    reported: BTreeSet<(Property, u64)>,
}

impl Ledger {
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            contents: Vec::new(),
            by_home: BTreeMap::new(),
            frames: BTreeMap::new(),
            saved: BTreeMap::new(),
            touched: BTreeSet::new(),
            migrating: BTreeSet::new(),
            reported: BTreeSet::new(),
        }
    }

    fn begin(&mut self, content: Content) -> ContentId {
        let id = u32::try_from(self.contents.len()).expect("fewer than 2^32 contents");
        self.by_home.insert(content.home, id);
        self.contents.push(content);
        id
    }

    /// The content at a home, begun now if nobody touched it before.
    pub(super) fn content(&mut self, home: Home) -> ContentId {
        if let Some(id) = self.by_home.get(&home) {
            return *id;
        }
        self.begin(Content {
            home,
            want: PageTags::ZERO,
            writer: Told(None),
            parent: None,
            homes: 1,
        })
    }

    /// The content at `to` for its owner to write: split off from what is shared, or from the file's page at `from`.
    pub(super) fn own(&mut self, from: Home, to: Home) -> ContentId {
        let id = self.content(from);
        let shared = self.contents[id as usize].homes > 1;
        if from == to && !shared {
            return id;
        }
        if from == to {
            self.contents[id as usize].homes -= 1;
        }
        let split = Content {
            home: to,
            parent: Some(id),
            homes: 1,
            ..self.contents[id as usize].clone()
        };
        self.begin(split)
    }

    /// The content at a home, if anybody touched it.
    pub(super) fn find(&self, home: Home) -> Option<ContentId> {
        self.by_home.get(&home).copied()
    }

    pub(super) fn get(&self, content: ContentId) -> &Content {
        &self.contents[content as usize]
    }

    pub(super) fn has(&self, home: Home) -> bool {
        self.by_home.contains_key(&home)
    }

    pub(super) fn lives(&self, content: ContentId) -> bool {
        self.contents[content as usize].homes > 0
    }

    /// Every home with its content.
    pub(super) fn homes(&self) -> Vec<(Home, ContentId)> {
        self.by_home.iter().map(|(home, content)| (*home, *content)).collect()
    }

    pub(super) fn provenance(&self, pfn: Pfn) -> Provenance {
        self.frames.get(&pfn).copied().unwrap_or_default()
    }

    /// Do the tags of a frame belong to a content, in that granule?
    pub(super) fn holds(&self, provenance: &Provenance, content: ContentId, granule: usize) -> bool {
        let initialised = provenance.initialised[granule / 64] >> (granule % 64) & 1 == 1;
        let mut of = Some(content);
        while let Some(id) = of.filter(|_| initialised && !provenance.merged) {
            if provenance.owner == Some(id) {
                return true;
            }
            of = self.contents[id as usize].parent;
        }
        initialised && provenance.merged
    }

    /// Do all tags of a frame belong to a content?
    pub(super) fn holds_all(&self, provenance: &Provenance, content: ContentId) -> bool {
        provenance.initialised == [u64::MAX; GRANULES_PER_PAGE / 64]
            && (provenance.merged || self.descends(content, provenance.owner))
    }

    fn drop_homes(&mut self, from: Home, to: Home) {
        let gone: Vec<Home> = self.by_home.range(from..to).map(|(home, _)| *home).collect();
        for home in gone {
            if let Some(content) = self.by_home.remove(&home) {
                self.contents[content as usize].homes -= 1;
            }
        }
    }

    /// The range of pages of a process is discarded: what was there has no owner any more.
    pub(crate) fn discarded(&mut self, mm: MmId, va: Va, end: Va) {
        self.drop_homes(Home::Private(mm, va.vpn()), Home::Private(mm, end.vpn()));
    }

    /// Pages of a file are truncated or punched out.
    pub(crate) fn truncated(&mut self, file: FileId, from: u64, end: u64) {
        self.drop_homes(Home::File(file, from), Home::File(file, end));
    }

    /// `UFFDIO_MOVE`: what a process had at one page it has at another, and nothing at the first any more.
    pub(crate) fn moved(&mut self, mm: MmId, from: Va, to: Va) {
        let (from, to) = (Home::Private(mm, from.vpn()), Home::Private(mm, to.vpn()));
        if let Some(before) = self.by_home.remove(&to) {
            self.contents[before as usize].homes -= 1;
        }
        if let Some(content) = self.by_home.remove(&from) {
            self.by_home.insert(to, content);
            let content = &mut self.contents[content as usize];
            if content.home == from {
                content.home = to;
            }
        }
    }

    /// fork: the child has the parent's content at that page.
    pub(crate) fn forked(&mut self, parent: MmId, child: MmId, va: Va) {
        if self.enabled {
            let content = self.content(Home::Private(parent, va.vpn()));
            self.contents[content as usize].homes += 1;
            self.by_home.insert(Home::Private(child, va.vpn()), content);
        }
    }

    /// All tags of the frame were written for the content at a home.
    pub(super) fn initialised(&mut self, pfn: Pfn, home: Home) {
        let Provenance { owner, merged, .. } = self.provenance(pfn);
        let content = self.content(home);
        let provenance = Provenance {
            owner: Some(content),
            initialised: [u64::MAX; GRANULES_PER_PAGE / 64],
            before: owner,
            merged,
        };
        self.frames.insert(pfn, provenance);
    }

    /// The frame was given out again: what lies in it is the last owner's.
    pub(crate) fn allocated(&mut self, pfn: Pfn) {
        if let Some(provenance) = self.frames.get_mut(&pfn) {
            provenance.merged = false;
        }
    }

    /// KSM: the frame now stands for many contents.
    pub(crate) fn merged(&mut self, pfn: Pfn) {
        if self.enabled {
            self.frames.entry(pfn).or_default().merged = true;
        }
    }

    /// A copy of a merged frame belongs to one content.
    pub(super) fn unmerged(&mut self, pfn: Pfn, home: Home) {
        let content = self.content(home);
        if let Some(provenance) = self.frames.get_mut(&pfn).filter(|p| p.merged) {
            (provenance.owner, provenance.merged) = (Some(content), false);
        }
    }

    /// A content was written in one granule of a frame.
    pub(super) fn tag_written(&mut self, pfn: Pfn, granule: usize, tag: Tag, content: ContentId, writer: Actor) {
        let entry = &mut self.contents[content as usize];
        entry.want.set(granule, tag);
        entry.writer = Told(Some(writer));
        let mut provenance = self.provenance(pfn);
        if !self.descends(content, provenance.owner) {
            provenance = Provenance {
                owner: Some(content),
                before: provenance.owner,
                ..Provenance::default()
            };
        }
        provenance.initialised[granule / 64] |= 1 << (granule % 64);
        self.frames.insert(pfn, provenance);
    }

    /// Its owner wrote all its tags, where this ledger could not see it.
    pub(super) fn adopt(&mut self, content: ContentId, tags: PageTags, writer: Actor) {
        let entry = &mut self.contents[content as usize];
        (entry.want, entry.writer) = (tags, Told(Some(writer)));
    }

    fn descends(&self, content: ContentId, from: Option<ContentId>) -> bool {
        let mut of = Some(content);
        while let Some(id) = of {
            if from == Some(id) {
                return true;
            }
            of = self.contents[id as usize].parent;
        }
        false
    }

    /// `copy_highpage` copied all tags.
    pub(crate) fn copied(&mut self, from: Pfn, to: Pfn) {
        if self.enabled {
            let provenance = self.provenance(from);
            self.frames.insert(to, provenance);
        }
    }

    /// What lies in the frame is nobody's: memory was without power.
    pub(crate) fn tags_gone(&mut self, pfn: Pfn) {
        self.frames.remove(&pfn);
    }

    /// `mte_save_tags` stored the frame's tags under the entry.
    pub(crate) fn saved(&mut self, entry: SwpEntry, pfn: Pfn) {
        if self.enabled {
            self.saved.insert(entry, self.provenance(pfn));
            self.touched.insert(entry);
        }
    }

    /// The page is not written to its slot after all: nothing need be saved under it.
    pub(crate) fn save_undone(&mut self, entry: SwpEntry) {
        self.saved.remove(&entry);
    }

    /// `mte_restore_tags` wrote the saved tags to the frame.
    pub(crate) fn restored(&mut self, entry: SwpEntry, pfn: Pfn) {
        if self.enabled {
            let provenance = self.saved.get(&entry).copied().unwrap_or_default();
            self.frames.insert(pfn, provenance);
        }
    }

    pub(super) fn has_saved(&self, entry: SwpEntry) -> bool {
        self.saved.contains_key(&entry)
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

    pub(super) fn take_touched(&mut self) -> BTreeSet<SwpEntry> {
        std::mem::take(&mut self.touched)
    }

    /// False when the same was reported before.
    pub(super) fn report_once(&mut self, property: Property, subject: u64) -> bool {
        self.reported.insert((property, subject))
    }
}
