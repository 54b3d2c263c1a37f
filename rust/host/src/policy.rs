//! Policies: every decision that kernel versions made differently, as data.
//!
//! **Models** the rows of the policy matrix that this crate asks so far. A [`Policy`] is a plain value with one enum per
//! row; a path asks the field at the decision, once, and never compares version numbers. Rows that are not fields yet
//! (K2, K3, K7-K14, K16, K17, K19, K20, K24-K33) behave as in Linux 6.12 under every profile.
//!
//! **Keeps**: a knob's names and documentation stand beside its values, so lists, errors and reports cannot drift.

use std::borrow::Cow;

use thiserror::Error;

/// One value a knob can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnobValue {
    /// The value's name, e.g. `slot-free`.
    pub name: &'static str,
    /// What the kernel does with it, and which kernels did.
    pub doc: &'static str,
}

/// One decision: a row of the policy matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knob {
    /// Row of the matrix, e.g. `K1`.
    pub id: &'static str,
    /// Field name, e.g. `saved_tags_erased`.
    pub field: &'static str,
    /// The decision in one line.
    pub title: &'static str,
    /// Which kernel function decides, and why it matters.
    pub doc: &'static str,
    /// Every value, in the order of the documentation.
    pub values: &'static [KnobValue],
}

macro_rules! knobs {
    ($($(#[doc = $doc:literal])+ $id:literal $field:ident: $enum:ident, $title:literal {
        $($(#[doc = $vdoc:literal])+ $variant:ident = $name:literal,)+
    })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
            pub enum $enum { $($(#[doc = $vdoc])+ $variant,)+ }

            impl $enum {
                /// The value's name on the command line and in reports.
                pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)+ } }

                fn parse(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)+ _ => None } }
            }
        )+

        /// Every decision of the host, as one plain value.
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub struct Policy {
            /// Profile name, with the replaced knobs behind it.
            pub name: Cow<'static, str>,
            $($(#[doc = $doc])+ pub $field: $enum,)+
        }

        static KNOBS: &[Knob] = &[$(Knob {
            id: $id,
            field: stringify!($field),
            title: $title,
            doc: concat!($($doc),+),
            values: &[$(KnobValue { name: $name, doc: concat!($($vdoc),+) },)+],
        },)+];

        impl Policy {
            /// The value's name of the knob `id` (`K1`) or field name; `None` for an unknown knob.
            pub fn get(&self, knob: &str) -> Option<&'static str> {
                $(if knob == $id || knob == stringify!($field) { return Some(self.$field.name()); })+
                None
            }

            fn set(&mut self, knob: &Knob, value: &str) -> Option<()> {
                $(if knob.id == $id { self.$field = $enum::parse(value)?; })+
                Some(())
            }
        }
    };
}

knobs! {
    /// When `mte_pages[entry]` is erased (`mte_invalidate_tags`, arch/arm64/mm/mteswap.c). The founding question: how
    /// long must saved tags outlive a swap-in?
    "K1" saved_tags_erased: SavedTags, "saved tags erased" {
        /// As soon as `mte_restore_tags` has written them back: asked on the list in April 2021, never merged.
        Restore = "restore",
        /// When the page they were restored to is freed: counterfactual, equal to `restore` for a clean page.
        PageFree = "page-free",
        /// When the swap slot is freed (`swap_range_free` -> `arch_swap_invalidate_page`): every merged version.
        SlotFree = "slot-free",
        /// Only at swapoff (`arch_swap_invalidate_area`): counterfactual.
        Swapoff = "swapoff",
    }
    /// Order of flag and tags in the host's `mte_sync_tags` (`set_pte_at` of a tagged PTE).
    "K4" host_sync: HostSync, "host sync: flag against tags" {
        /// `test_and_set_bit(PG_mte_tagged)`, then clear: the flag is visible before the tags (5.10 to 6.1).
        FlagFirst = "flag-first",
        /// `try_page_mte_tagging` takes `PG_mte_lock`, clear, then the flag (6.2 and later).
        Lock = "lock",
    }
    /// Whether `cpu_enable_mte` flags the shared zero page at boot.
    "K15" zero_page: ZeroPage, "zero page flagged at boot" {
        /// Flagged, tags cleared once (5.12 to 6.17).
        Flagged = "flagged",
        /// Tags cleared, page not flagged (6.18-rc1; stable backports, seen in 6.12.107).
        Unflagged = "unflagged",
    }
    /// How `sanitise_mte_tags` (called by `user_mem_abort` before mapping) initialises an unflagged page.
    "K18" sanitise: Sanitise, "stage-2 sanitise protocol" {
        /// `test_and_set_bit(PG_mte_tagged)`, then clear (v10 series): a second fault may map before the clear.
        TestAndSet = "test-and-set",
        /// Test, clear, set, no lock (5.14 to 6.1): two faults may both clear.
        TestClearSet = "test-clear-set",
        /// `PG_mte_lock` taken first, the loser waits for `PG_mte_tagged` (6.2 and later).
        Lock = "lock",
    }
    /// Whether an MTE VM may be backed by a `VM_SHARED` mapping.
    "K21" shared_backing: SharedBacking, "MAP_SHARED behind an MTE VM" {
        /// Allowed (v10 to v15 of the series; 6.2 and later).
        Allowed = "allowed",
        /// Refused where K23 checks: slot -EINVAL, fault -EFAULT (5.14 to 6.1, no tag lock existed).
        Refused = "refused",
    }
    /// What becomes of memory without tag storage (`ZONE_DEVICE`, device pfns, offline pfns) behind an MTE VM.
    "K22" untaggable: Untaggable, "untaggable memory" {
        /// Any pfn with a `struct page` is mapped Normal Write-Back and flagged (v10 series).
        Cacheable = "cacheable",
        /// `!pfn_is_map_memory` is mapped Device-nGnRE; anything else offline is -EFAULT (5.14 to 6.1).
        Device = "device",
        /// A VMA without `VM_MTE_ALLOWED` is refused, but at fault time `!pfn_is_map_memory` is mapped Device first
        /// (6.2 to 6.12).
        DeviceElseRefuse = "device-else-refuse",
        /// A VMA without `VM_MTE_ALLOWED` is refused; only device memory without `struct page` is mapped Device
        /// (as seen in 7.3).
        Refuse = "refuse",
    }
    /// Where the K21 and K22 rules are applied (`kvm_arch_prepare_memory_region`, `user_mem_abort`).
    "K23" checked_at: CheckedAt, "rules checked" {
        /// Nowhere (v10 series).
        Never = "never",
        /// Only when the memslot is added: what the slot was then is believed for ever (proposed on the list).
        Slot = "slot",
        /// Only at fault time: the memory under a live slot may have been replaced.
        Fault = "fault",
        /// Both (5.14 and later).
        SlotAndFault = "slot-and-fault",
    }
    /// How a stage-2 fault takes `kvm->mmu_lock`: alone, or beside other faults.
    "mmu_lock" fault_lock: FaultLock, "mmu_lock on a stage-2 fault" {
        /// Spinlock, later rwlock for write: one fault of a VM at a time (up to 6.1).
        Exclusive = "exclusive",
        /// Read lock: faults of one VM run in parallel (6.2 and later).
        Read = "read",
    }
}

/// A named policy: one column of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Name, e.g. `linux-6.12`.
    pub name: &'static str,
    /// What it stands for.
    pub summary: &'static str,
}

/// No profile of that name.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown profile {name:?}; known: {}", Policy::profile_names())]
pub struct UnknownProfile {
    /// The name asked for.
    pub name: String,
}

/// A replacement that does not name a knob or one of its values.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum KnobError {
    /// No knob of that id or field name.
    #[error("unknown knob {knob:?}; known: {}", Policy::knob_names())]
    UnknownKnob {
        /// The knob asked for.
        knob: String,
    },
    /// The knob has no such value.
    #[error("unknown value {value:?} of {knob}; one of: {expected}")]
    UnknownValue {
        /// The knob's id.
        knob: &'static str,
        /// The value asked for.
        value: String,
        /// Its values.
        expected: String,
    },
}

static PROFILES: &[Profile] = &[
    Profile {
        name: "v10-series",
        summary: "KVM MTE patch series v10, March 2021, on a 5.12 host: no checks at all",
    },
    Profile {
        name: "linux-5.14",
        summary: "first merged version: offline and VM_SHARED memory refused, no tag lock",
    },
    Profile {
        name: "linux-6.12",
        summary: "PG_mte_lock, VM_MTE_ALLOWED checked at slot and fault (longterm)",
    },
];

impl Policy {
    /// The named columns of the matrix that can be built.
    pub fn profiles() -> &'static [Profile] {
        PROFILES
    }

    /// Every knob with its values and documentation.
    pub fn knobs() -> &'static [Knob] {
        KNOBS
    }

    /// The policy of a profile; `6.12` is short for `linux-6.12`.
    pub fn profile(name: &str) -> Result<Self, UnknownProfile> {
        let known = PROFILES
            .iter()
            .find(|p| p.name == name || p.name.strip_prefix("linux-") == Some(name));
        match known.map(|p| p.name) {
            Some("v10-series") => Ok(Self::v10_series()),
            Some("linux-5.14") => Ok(Self::linux_5_14()),
            Some("linux-6.12") => Ok(Self::linux_6_12()),
            _ => Err(UnknownProfile { name: name.to_owned() }),
        }
    }

    /// This policy with one knob (by id or field name) replaced; the name records it.
    pub fn with(&self, knob: &str, value: &str) -> Result<Self, KnobError> {
        let Some(known) = KNOBS.iter().find(|k| k.id == knob || k.field == knob) else {
            return Err(KnobError::UnknownKnob { knob: knob.to_owned() });
        };
        let mut policy = self.clone();
        policy.set(known, value).ok_or_else(|| KnobError::UnknownValue {
            knob: known.id,
            value: value.to_owned(),
            expected: known.values.iter().map(|v| v.name).collect::<Vec<_>>().join(", "),
        })?;
        policy.name = format!("{} {}={value}", self.name, known.id).into();
        Ok(policy)
    }

    fn profile_names() -> String {
        PROFILES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
    }

    fn knob_names() -> String {
        KNOBS.iter().map(|k| k.id).collect::<Vec<_>>().join(", ")
    }

    fn v10_series() -> Self {
        Self {
            name: "v10-series".into(),
            saved_tags_erased: SavedTags::SlotFree,
            host_sync: HostSync::FlagFirst,
            zero_page: ZeroPage::Flagged,
            sanitise: Sanitise::TestAndSet,
            shared_backing: SharedBacking::Allowed,
            untaggable: Untaggable::Cacheable,
            checked_at: CheckedAt::Never,
            fault_lock: FaultLock::Exclusive,
        }
    }

    fn linux_5_14() -> Self {
        Self {
            name: "linux-5.14".into(),
            sanitise: Sanitise::TestClearSet,
            shared_backing: SharedBacking::Refused,
            untaggable: Untaggable::Device,
            checked_at: CheckedAt::SlotAndFault,
            ..Self::v10_series()
        }
    }

    fn linux_6_12() -> Self {
        Self {
            name: "linux-6.12".into(),
            saved_tags_erased: SavedTags::SlotFree,
            host_sync: HostSync::Lock,
            zero_page: ZeroPage::Unflagged,
            sanitise: Sanitise::Lock,
            shared_backing: SharedBacking::Allowed,
            untaggable: Untaggable::DeviceElseRefuse,
            checked_at: CheckedAt::SlotAndFault,
            fault_lock: FaultLock::Read,
        }
    }
}

impl CheckedAt {
    /// Are the rules applied when a memslot is added?
    pub const fn at_slot(self) -> bool {
        matches!(self, Self::Slot | Self::SlotAndFault)
    }

    /// Are the rules applied at fault time?
    pub const fn at_fault(self) -> bool {
        matches!(self, Self::Fault | Self::SlotAndFault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_named_is_built_under_its_name() {
        for profile in Policy::profiles() {
            assert_eq!(Policy::profile(profile.name).unwrap().name, profile.name);
        }
    }

    #[test]
    fn every_value_of_every_knob_can_be_set_by_id_and_read_by_field() {
        let base = Policy::profile("6.12").unwrap();
        for knob in Policy::knobs() {
            for value in knob.values {
                let policy = base.with(knob.id, value.name).unwrap();
                assert_eq!(policy.get(knob.field), Some(value.name));
            }
        }
    }

    #[test]
    fn unknown_names_say_what_exists() {
        let base = Policy::profile("linux-6.12").unwrap();
        assert!(base.with("K99", "x").unwrap_err().to_string().contains("K22"));
        assert!(base.with("K1", "never").unwrap_err().to_string().contains("slot-free"));
        assert!(
            Policy::profile("linux-9.9")
                .unwrap_err()
                .to_string()
                .contains("v10-series")
        );
    }

    #[test]
    fn profiles_differ_in_the_rows_the_matrix_says() {
        let (v10, v514, v612) = (
            Policy::profile("v10-series").unwrap(),
            Policy::profile("5.14").unwrap(),
            Policy::profile("6.12").unwrap(),
        );
        assert_eq!((v10.get("K22"), v10.get("K23")), (Some("cacheable"), Some("never")));
        assert_eq!(
            (v514.get("K18"), v514.get("K21")),
            (Some("test-clear-set"), Some("refused"))
        );
        assert_eq!((v612.get("K18"), v612.get("mmu_lock")), (Some("lock"), Some("read")));
    }
}
