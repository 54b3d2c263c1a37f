//! Verdicts: the properties and what a violation carries.

use std::fmt;

use crate::log::StepLine;

/// A property the ledger decides (P-numbers of the bug catalogue).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Property {
    /// A tag written is what every later tag read of that address returns, until overwritten or discarded.
    NoLoss,
    /// No tag reader ever sees tags left by an earlier owner of the frame or of the swap slot.
    NoLeak,
    /// Whoever observes `PG_mte_tagged` observes initialised tags.
    FlagTags,
    /// A tagged PTE, and a Normal Write-Back stage-2 mapping of an MTE VM, points only to flagged pages.
    MappingFlag,
    /// An MTE VM never gets a tag-capable stage-2 mapping of memory without tag storage.
    Taggable,
    /// `mte_pages[e]` exists exactly while slot e is allocated and holds tags of a tagged page.
    MetadataLife,
    /// A tag that changes after it was read with `KVM_ARM_MTE_COPY_TAGS` shows in the dirty log.
    Migration,
    /// No lock and no reference is leaked.
    Sanity,
    /// A VM without MTE cannot discover it or reach tags.
    Trap,
}

impl Property {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::NoLoss,
        Self::NoLeak,
        Self::FlagTags,
        Self::MappingFlag,
        Self::Taggable,
        Self::MetadataLife,
        Self::Migration,
        Self::Sanity,
        Self::Trap,
    ];

    /// Number, e.g. `P1`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::NoLoss => "P1",
            Self::NoLeak => "P2",
            Self::FlagTags => "P3",
            Self::MappingFlag => "P4",
            Self::Taggable => "P5",
            Self::MetadataLife => "P6",
            Self::Migration => "P7",
            Self::Sanity => "P8",
            Self::Trap => "P9",
        }
    }

    /// Short name, e.g. `no-loss`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NoLoss => "no-loss",
            Self::NoLeak => "no-leak",
            Self::FlagTags => "flag implies tags",
            Self::MappingFlag => "mapping implies flag",
            Self::Taggable => "taggable",
            Self::MetadataLife => "metadata life",
            Self::Migration => "migration",
            Self::Sanity => "sanity",
            Self::Trap => "trap",
        }
    }
}

/// A property that did not hold, with the steps that led there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which property.
    pub property: Property,
    /// One sentence: who saw what, and what should have been.
    pub summary: String,
    /// The numbered steps; empty when the log is off.
    pub steps: Vec<StepLine>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.property.id(), self.property.title(), self.summary)?;
        for line in &self.steps {
            write!(f, "\n{:4}. {}: {}: {}", line.n, line.actor, line.path, line.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
