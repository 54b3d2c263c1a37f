//! One access to memory, as translation, permissions and syndrome see it, and what a mapping grants.
//!
//! [`AccessDesc`] is what an instruction demands (`AccessDescriptor` of the pseudocode); [`Grants`] is what a translation
//! allows without another look at its descriptors, which is what a TLB may remember. Left out: transactional, atomic
//! ordering and Realm attributes of an access. The invariant: a fault made here carries everything its syndrome needs.

use bitflags::bitflags;

use crate::addr::{Ipa, Va};
use crate::fault::{Access, Fault, FaultKind, Stage, Syndrome};

/// What kind of demand an access is (`AccessType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// A load, store or atomic.
    Data,
    /// A read or write of allocation tags, with or without data.
    Tag,
    /// An instruction fetch.
    Fetch,
    /// `DC ZVA`, `DC GVA` and `DC GZVA`.
    DcZero,
    /// Cache maintenance that invalidates: needs write permission.
    DcInvalidate,
    /// Cache maintenance that cleans: needs read permission at EL0, none above.
    DcClean,
    /// `AT`.
    At,
}

/// What an access has to do with allocation tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagUse {
    /// Nothing: unchecked, or access to tags is disabled.
    None,
    /// It is tag checked (`tagchecked`).
    Checked,
    /// It reads or writes tags (`tagaccess`).
    Access,
}

/// One access, as translation and syndrome see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccessDesc {
    /// Its kind.
    pub kind: AccessKind,
    /// The exception level whose permissions count: 0 for `LDTR` at EL1.
    pub el: u8,
    /// It reads.
    pub read: bool,
    /// It writes. An atomic does both.
    pub write: bool,
    /// It is aligned as Device memory demands.
    pub aligned: bool,
    /// `PSTATE.PAN` applies.
    pub pan: bool,
    /// What it does with tags.
    pub tags: TagUse,
    /// Bytes.
    pub size: u8,
    /// The instruction in the syndrome.
    pub syndrome: Syndrome,
}

impl AccessDesc {
    /// An access that the syndrome does not describe and that has nothing to do with tags.
    pub const fn new(kind: AccessKind, el: u8, write: bool, size: u8) -> Self {
        Self {
            kind,
            el,
            read: !write,
            write,
            aligned: true,
            pan: false,
            tags: TagUse::None,
            size,
            syndrome: Syndrome::NONE,
        }
    }

    /// What a fault says it was: an atomic's is a read's (`NoFault`), a maintenance instruction's a write's.
    pub const fn access(&self) -> Access {
        match self.kind {
            AccessKind::Fetch => Access::Fetch,
            _ if self.is_maintenance() => Access::Write,
            _ if self.write && !self.read => Access::Write,
            _ => Access::Read,
        }
    }

    /// `DC` and `AT`, which set `ESR_ELx.CM`; the zeroing and tagging forms are stores.
    const fn is_maintenance(&self) -> bool {
        matches!(
            self.kind,
            AccessKind::DcInvalidate | AccessKind::DcClean | AccessKind::At
        )
    }

    /// A fault of this access at level 0.
    pub const fn fault(&self, kind: FaultKind, stage: Stage, va: Va) -> Fault {
        Fault {
            kind,
            stage,
            level: 0,
            access: self.access(),
            va,
            ipa: Ipa(0),
            s1ptw: false,
            maintenance: self.is_maintenance(),
            tags_refused: false,
            syndrome: self.syndrome,
            size: self.size,
        }
    }

    /// Whether Device memory refuses it (`AArch64.S1HasAlignmentFault`, `S2HasAlignmentFault`). A tag store to Device
    /// memory is CONSTRAINED UNPREDICTABLE; here, as in QEMU, it is not refused.
    pub(crate) const fn misaligned_for_device(&self) -> bool {
        match self.kind {
            AccessKind::Fetch => false,
            _ if self.stores_tags() => false,
            AccessKind::DcZero => true,
            _ => !self.aligned,
        }
    }

    /// Whether it changes dirty state: it writes, and is neither `AT` nor cache maintenance.
    pub(crate) const fn dirties(&self) -> bool {
        self.write && !self.is_maintenance()
    }

    /// Whether it writes allocation tags.
    pub(crate) const fn stores_tags(&self) -> bool {
        self.write && matches!(self.tags, TagUse::Access)
    }

    /// The part of the access that these grants refuse, as a fault reports it.
    #[inline]
    pub fn refused_by(&self, grants: Grants) -> Option<Access> {
        let (read, write, exec) = match (self.el, self.pan) {
            (0, _) => (Grants::EL0_READ, Grants::EL0_WRITE, Grants::EL0_EXEC),
            (_, false) => (Grants::READ, Grants::WRITE, Grants::EXEC),
            (_, true) => (Grants::PAN_READ, Grants::PAN_WRITE, Grants::EXEC),
        };
        let lacks = |grant| !grants.contains(grant);
        match self.kind {
            AccessKind::Fetch => lacks(exec).then_some(Access::Fetch),
            AccessKind::DcClean => (self.el == 0 && lacks(read)).then_some(Access::Write),
            AccessKind::DcInvalidate => lacks(write).then_some(Access::Write),
            _ if self.read && lacks(read) => Some(Access::Read),
            _ if self.write && lacks(write) => Some(Access::Write),
            _ => None,
        }
    }
}

bitflags! {
    /// What a translation allows to whom.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Grants: u8 {
        /// EL0 may read.
        const EL0_READ = 1 << 0;
        /// EL0 may write.
        const EL0_WRITE = 1 << 1;
        /// EL0 may execute.
        const EL0_EXEC = 1 << 2;
        /// The privileged level of the regime may read.
        const READ = 1 << 3;
        /// The privileged level may write.
        const WRITE = 1 << 4;
        /// The privileged level may execute.
        const EXEC = 1 << 5;
        /// The privileged level may read while `PSTATE.PAN` is set.
        const PAN_READ = 1 << 6;
        /// The privileged level may write while `PSTATE.PAN` is set.
        const PAN_WRITE = 1 << 7;
    }
}

impl Grants {
    /// All readers.
    pub(crate) const ALL_READ: Self = Self::EL0_READ.union(Self::READ).union(Self::PAN_READ);
    /// All writers.
    pub(crate) const ALL_WRITE: Self = Self::EL0_WRITE.union(Self::WRITE).union(Self::PAN_WRITE);

    /// These flags, or none.
    pub(crate) const fn only_if(self, allowed: bool) -> Self {
        if allowed { self } else { Self::empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_is_refused_as_a_read_first_and_its_faults_are_a_reads() {
        let atomic = AccessDesc {
            read: true,
            ..AccessDesc::new(AccessKind::Data, 1, true, 8)
        };

        assert_eq!(atomic.access(), Access::Read);
        assert_eq!(atomic.refused_by(Grants::empty()), Some(Access::Read));
        assert_eq!(atomic.refused_by(Grants::READ), Some(Access::Write));
        assert_eq!(atomic.refused_by(Grants::READ | Grants::WRITE), None);
    }

    #[test]
    fn pan_and_el0_have_grants_of_their_own() {
        let load = AccessDesc::new(AccessKind::Data, 1, false, 8);
        let under_pan = AccessDesc { pan: true, ..load };
        let unprivileged = AccessDesc { el: 0, ..load };

        assert_eq!(load.refused_by(Grants::READ), None);
        assert_eq!(under_pan.refused_by(Grants::READ), Some(Access::Read));
        assert_eq!(under_pan.refused_by(Grants::PAN_READ), None);
        assert_eq!(
            unprivileged.refused_by(Grants::READ | Grants::PAN_READ),
            Some(Access::Read)
        );
    }

    #[test]
    fn maintenance_needs_what_the_architecture_says_and_reports_a_write() {
        let clean = AccessDesc::new(AccessKind::DcClean, 0, false, 64);
        let invalidate = AccessDesc::new(AccessKind::DcInvalidate, 1, false, 64);

        assert_eq!(clean.refused_by(Grants::empty()), Some(Access::Write));
        assert_eq!(AccessDesc { el: 1, ..clean }.refused_by(Grants::empty()), None);
        assert_eq!(invalidate.refused_by(Grants::READ), Some(Access::Write));
        let fault = clean.fault(FaultKind::Translation, Stage::One, Va(0));
        assert_eq!((fault.access, fault.maintenance), (Access::Write, true));
    }
}
