//! TLB maintenance: which entries an instruction removes.
//!
//! Models the operations of Arm ARM D8.17 on the TLB of one processing element. Left out: broadcast (`IS`, `OS`), which is
//! the caller's loop over TLBs; completion, for what is removed is gone at once and `DSB` has nothing to wait for; `TTL`
//! hints; the last-level-only forms as operations of their own, for no intermediate level is cached and removing more is
//! allowed.
//!
//! The invariant: an entry that the architecture lets survive survives, wherever correct software depends on that choice.
//! So `IPAS2E1` leaves entries that combine both stages, and a hypervisor that forgets the `VMALLE1` after it is found out.
//! A stage-1 leaf that stage 2 splinters goes as a whole: an address anywhere in it removes every piece.

use tagvisor_arch::{Ipa, Va};

use super::entry::{Regime, TlbEntry, key, overlap, range};

/// A TLB maintenance operation. `vmid` is the current VMID, `None` while stage 2 is off.
///
/// Operations by address take a range; the forms for one page are ranges of a translation granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tlbi {
    /// `VMALLE1`: all of EL1&0 with the VMID, entries made with stage 1 off included.
    Vmalle1 {
        /// Current VMID.
        vmid: Option<u16>,
    },
    /// `VMALLS12E1`: both stages of EL1&0 with the VMID.
    Vmalls12e1 {
        /// Current VMID.
        vmid: Option<u16>,
    },
    /// `ALLE1`: all of EL1&0, whatever the VMID.
    Alle1,
    /// `ALLE2`: all of EL2.
    Alle2,
    /// `ASIDE1`: what is not global and has the ASID.
    Aside1 {
        /// Current VMID.
        vmid: Option<u16>,
        /// The ASID.
        asid: u16,
    },
    /// `VAE1`, `VALE1`, `RVAE1`, `RVALE1`: addresses, if global or with the ASID.
    Vae1 {
        /// Current VMID.
        vmid: Option<u16>,
        /// The ASID.
        asid: u16,
        /// First address.
        va: Va,
        /// Length of the range.
        bytes: u64,
    },
    /// `VAAE1`, `VAALE1`, `RVAAE1`, `RVAALE1`: addresses, whatever the ASID.
    Vaae1 {
        /// Current VMID.
        vmid: Option<u16>,
        /// First address.
        va: Va,
        /// Length of the range.
        bytes: u64,
    },
    /// `VAE2`, `VALE2`, `RVAE2`, `RVALE2`: addresses of EL2.
    Vae2 {
        /// First address.
        va: Va,
        /// Length of the range.
        bytes: u64,
    },
    /// `IPAS2E1`, `IPAS2LE1`, `RIPAS2E1`, `RIPAS2LE1`: stage 2 of intermediate addresses. Entries of both stages stay.
    Ipas2e1 {
        /// Current VMID.
        vmid: u16,
        /// First address.
        ipa: Ipa,
        /// Length of the range.
        bytes: u64,
    },
}

impl Tlbi {
    /// Whether the operation removes the entry.
    pub(crate) fn removes<P>(&self, entry: &TlbEntry<P>) -> bool {
        let context = entry.context;
        let el10 = |vmid| context.regime == Regime::El10 && context.vmid == vmid;
        let at = |va, bytes| overlap(&entry.stage1_range(), &range(key(va), bytes));
        match *self {
            Self::Vmalle1 { vmid } | Self::Vmalls12e1 { vmid } => el10(vmid),
            Self::Alle1 => context.regime == Regime::El10,
            Self::Alle2 => context.regime == Regime::El2,
            Self::Aside1 { vmid, asid } => el10(vmid) && !entry.global && context.asid == asid,
            Self::Vae1 { vmid, asid, va, bytes } => {
                el10(vmid) && (entry.global || context.asid == asid) && at(va, bytes)
            }
            Self::Vaae1 { vmid, va, bytes } => el10(vmid) && at(va, bytes),
            Self::Vae2 { va, bytes } => context.regime == Regime::El2 && at(va, bytes),
            Self::Ipas2e1 { vmid, ipa, bytes } => {
                let stage2_only = entry.stage1_bits.is_none();
                el10(Some(vmid)) && stage2_only && overlap(&entry.ipa_range(), &range(ipa.0, bytes))
            }
        }
    }
}
