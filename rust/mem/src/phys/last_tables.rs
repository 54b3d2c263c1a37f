//! Last-level tables that walks came to, kept while that is what memory says.
//!
//! A walk of 4 levels under 3 reads 19 descriptors; with the last table of each stage at hand it reads two, those of the page,
//! and those always from memory. Left out: any order of age; a newcomer takes its place.
//!
//! Invariant: a table found is one that a walk would come to now. It was kept with the number of changes before its walk, and
//! each word which that walk read lies in a frame marked as walked: who writes to such a frame, or changes what is online,
//! counts one more ([`LastTables::forget`]). A frame that does not exist reads as zeros, which lead to no table.

use tagvisor_arch::{LastTable, TableKey};

/// A power of two. A table of the 4 KiB granule maps 2 MiB.
const TABLES: usize = 256;

/// A table and the key to it; one cache line.
#[derive(Clone, Copy, Debug)]
struct Kept {
    key: TableKey,
    table: LastTable,
}

const _: () = assert!(size_of::<Kept>() == 64);

impl Kept {
    /// No walk starts after so many changes.
    const NONE: Self = Self {
        key: TableKey {
            prefix: 0,
            root: 0,
            under_root: 0,
            geometry: [0; 2],
            changes: u64::MAX,
        },
        table: LastTable {
            table: 0,
            table_bits: 0,
            home: 0,
        },
    };
}

/// The tables, direct-mapped by key.
#[derive(Debug, Default)]
pub(super) struct LastTables {
    /// None at first, then [`TABLES`] long.
    tables: Vec<Kept>,
    changes: u64,
}

impl LastTables {
    /// Keeps tables from now on.
    pub(super) fn make_room(&mut self) {
        self.tables = vec![Kept::NONE; TABLES];
    }

    /// How often all was dropped.
    #[inline]
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    #[inline]
    pub(super) fn get(&self, key: &TableKey) -> Option<LastTable> {
        self.tables
            .get(slot(key))
            .filter(|kept| kept.key == *key)
            .map(|kept| kept.table)
    }

    pub(super) fn keep(&mut self, key: TableKey, table: LastTable) {
        if let Some(place) = self.tables.get_mut(slot(&key)) {
            *place = Kept { key, table };
        }
    }

    /// Drops everything: a key of an earlier count is none.
    #[inline]
    pub(super) const fn forget(&mut self) {
        self.changes += 1;
    }
}

/// Neighbouring tables have slots of their own, and so mostly have those of both stages for one address.
#[inline]
fn slot(key: &TableKey) -> usize {
    (key.prefix ^ key.root >> 12) as usize % TABLES
}
