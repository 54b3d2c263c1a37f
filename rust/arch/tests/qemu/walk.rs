//! The stage-2 walker against recorded `AT S12E*` answers of QEMU 10.0.2, all granules. Rows marked
//! C1 are left out: there the architecture's answer is the other one (see `walk`).

use std::collections::BTreeMap;

use crate::rows::{Row, vectors};
use tagvisor_arch::{
    Access, DescriptorSource, Ipa, PA_MAX_BITS, Pa, Stage2, VtcrEl2, VttbrEl2, check_s2_permission, walk_stage2,
};

/// Words that are not named are 0.
struct Words(BTreeMap<u64, u64>);

impl DescriptorSource for Words {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        Some(self.0.get(&pa.0).copied().unwrap_or(0))
    }
}

/// The part of `PAR_EL1` that tagvisor models: the address of a success, or stage, walk bit and status of a fault.
fn modelled(par: u64) -> u64 {
    let fault = par & 1 != 0;
    par & if fault { 0b11_0111_1111 } else { 0x000f_ffff_ffff_f001 }
}

fn par_of(row: &Row, access: Access) -> u64 {
    let regime = Stage2 {
        vtcr: VtcrEl2::from(row.num("vtcr")),
        vttbr: VttbrEl2::from(row.num("vttbr")),
    };
    let words = row
        .rows("mem")
        .into_iter()
        .map(|word| word.nums())
        .map(|word| (word[0], word[1]));
    let mut memory = Words(words.collect());
    let ipa = row.num("ipa");
    if ipa >> PA_MAX_BITS != 0 {
        return 1; // stage 1 is off: Address size fault, level 0, stage 1
    }
    let walk = walk_stage2(&mut memory, &regime, Ipa(ipa));
    match walk.and_then(|walk| check_s2_permission(&walk, access).map(|()| walk)) {
        Ok(walk) => walk.pa.0 & !0xfff,
        Err(fault) => 1 | u64::from(fault.kind.fsc(fault.level)) << 1 | 1 << 9,
    }
}

fn compare_walks(name: &str) {
    let rows = vectors(name);
    for row in rows.iter().filter(|row| !row.has("quirk")) {
        for (kind, par) in row.members("at") {
            let access = if kind.ends_with('W') {
                Access::Write
            } else {
                Access::Read
            };

            let got = par_of(row, access);

            assert_eq!(got, modelled(par), "{kind} of {row}");
        }
    }
}

#[test]
fn walks_answer_as_recorded() {
    compare_walks("s2_at.jsonl");
}

#[test]
fn permission_faults_answer_as_recorded() {
    compare_walks("s2_perm_at_q72.jsonl");
}
