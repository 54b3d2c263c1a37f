//! The tables of stage 1, wherever stage 2 puts them.
//!
//! Models that reading such a table is itself an access which stage 2 translates and may refuse (S1PTW), and so is the hardware
//! update of a descriptor. Left out: what [`translate`](super) leaves out. The invariant: a table is never read before stage 2
//! has agreed, which it has for a table kept as a [`LastTable`].

use super::stage2::Stage2Controls;
use super::{AF, Trace};
use crate::access::AccessDesc;
use crate::addr::{Ipa, Pa, Va};
use crate::fault::{Fault, Stage};
use crate::walk::{DescriptorSource, Found, LastTable, Level, Regime, TableKey, Under, WalkFault, read_physical, walk};

/// Why a stage-1 walk stopped: by itself, or because stage 2 refused a table.
pub(super) enum Refused {
    Walk(WalkFault),
    Stage2(Box<Fault>),
}

impl From<WalkFault> for Refused {
    fn from(fault: WalkFault) -> Self {
        Self::Walk(fault)
    }
}

/// The stage-1 tables, wherever stage 2 puts them.
pub(super) struct Tables<'a, S, T> {
    pub(super) src: &'a mut S,
    pub(super) under: Option<&'a Stage2Controls>,
    pub(super) va: Va,
    pub(super) access: &'a AccessDesc,
    pub(super) trace: &'a mut T,
}

impl<S: DescriptorSource, T: Trace> Tables<'_, S, T> {
    /// The walk, from the last table on if memory knows which that is.
    #[inline]
    pub(super) fn walk(&mut self, regime: &Regime) -> Result<Found, Refused> {
        if T::LOOKS {
            return Ok(self.walk_all_levels(regime)?.0);
        }
        let under = self.under.map_or_else(Under::default, Stage2Controls::id);
        let key = TableKey::new(self.src, regime, self.va.0, under);
        if let Some(table) = self.src.kept_table(&key) {
            return Ok(table.walk(self.src, regime, self.va.0)?);
        }
        let (found, pa) = self.walk_all_levels(regime)?;
        if let Some(table) = LastTable::of(regime, &found) {
            self.src.keep_table(key, table, pa);
        }
        Ok(found)
    }

    /// What the walk finds, and where the leaf's descriptor physically lies.
    #[inline(never)]
    fn walk_all_levels(&mut self, regime: &Regime) -> Result<(Found, Pa), Refused> {
        let mut leaf_pa = Pa(0);
        let found = walk(regime, self.va.0, |entry, level| {
            let desc_pa = self.locate(entry, false).map_err(Refused::Stage2)?;
            let desc = read_physical(self.src, desc_pa, level)?;
            self.trace.see(Stage::One, Level { level, desc_pa, desc });
            leaf_pa = desc_pa;
            Ok::<_, Refused>(desc)
        })?;
        Ok((found, leaf_pa))
    }

    /// Where an entry physically lies; `update` when hardware is going to write it.
    #[inline]
    fn locate(&mut self, entry: u64, update: bool) -> Result<Pa, Box<Fault>> {
        match self.under {
            None => Ok(Pa(entry)),
            Some(under) => under.locate(self.src, Ipa(entry), update, self.va, self.access, self.trace),
        }
    }

    /// Writes the leaf's descriptor back.
    pub(super) fn update(&mut self, found: &Found, desc: u64) -> Result<(), Box<Fault>> {
        debug_assert_ne!(desc & AF, 0, "hardware updates set the access flag");
        let pa = self.locate(found.entry, true)?;
        self.src.write_descriptor(pa, desc);
        Ok(())
    }
}
