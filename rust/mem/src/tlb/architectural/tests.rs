//! Look-ups and each operation on hand-made entries.

use tagvisor_arch::{Ipa, PAGE_SIZE, Pa};

use super::*;

const GUEST: Context = Context {
    regime: Regime::El10,
    vmid: Some(7),
    asid: 3,
};
const OTHER_ASID: Context = Context { asid: 4, ..GUEST };
const OTHER_VMID: Context = Context { vmid: Some(8), ..GUEST };
const HOST: Context = Context { vmid: None, ..GUEST };
const EL2: Context = Context {
    regime: Regime::El2,
    ..HOST
};
const MIB2: u32 = 21;
const VA: Va = Va(0x40_0000);

type Entry = TlbEntry<u8>;

/// A page of both stages for one ASID.
fn page(context: Context, va: Va) -> Entry {
    TlbEntry {
        context,
        global: false,
        va,
        bits: 12,
        stage1_bits: Some(12),
        ipa: Ipa(0x8000_0000 + va.0),
        pa: Pa(0x4000_0000 + va.0),
        payload: 1,
    }
}

/// A page made with stage 1 off.
fn flat(context: Context, va: Va) -> Entry {
    TlbEntry {
        global: true,
        stage1_bits: None,
        ipa: Ipa(va.0),
        ..page(context, va)
    }
}

fn tlb(entries: &[Entry]) -> Tlb<u8> {
    let mut tlb = Tlb::new(4);
    for &entry in entries {
        tlb.fill(entry);
    }
    tlb
}

/// Which of the entries are left after the operation.
fn left<const N: usize>(entries: [Entry; N], operation: Tlbi) -> [bool; N] {
    let mut tlb = tlb(&entries);
    tlb.invalidate(operation);
    entries.map(|entry| tlb.lookup(entry.context, entry.va) == Some(&entry))
}

#[test]
fn an_entry_is_found_by_any_of_its_addresses_and_translates_them() {
    let block = TlbEntry {
        bits: MIB2,
        stage1_bits: Some(MIB2),
        ..page(GUEST, VA)
    };
    let tlb = tlb(&[block]);

    let found = tlb.lookup(GUEST, VA + 0x12_3456).expect("inside the block");

    assert_eq!(found.translate(VA + 0x12_3456), Pa(0x4052_3456));
    assert_eq!(tlb.lookup(GUEST, VA.with_tag(tagvisor_arch::Tag::new(5))), Some(&block));
    assert_eq!(tlb.lookup(GUEST, VA + (1 << MIB2)), None);
}

#[test]
fn largest_blocks_and_the_upper_half_are_found() {
    let upper = Va(0xffff_ff80_0000_0000);
    let block = TlbEntry {
        bits: 39,
        stage1_bits: Some(39),
        ipa: Ipa(0),
        pa: Pa(1 << 39),
        ..page(GUEST, upper)
    };
    let tlb = tlb(&[block]);

    assert_eq!(
        tlb.lookup(GUEST, Va(u64::MAX))
            .map(|entry| entry.translate(Va(u64::MAX))),
        Some(Pa((1 << 40) - 1))
    );
    assert_eq!(tlb.lookup(GUEST, Va(0x7f_ffff_ffff)), None);
}

#[test]
fn contexts_are_kept_apart() {
    let tlb = tlb(&[page(GUEST, VA)]);

    for other in [OTHER_ASID, OTHER_VMID, HOST, EL2] {
        assert_eq!(tlb.lookup(other, VA), None, "{other:?}");
    }
}

#[test]
fn a_global_entry_holds_for_every_asid_of_its_vmid() {
    let global = TlbEntry {
        global: true,
        ..page(GUEST, VA)
    };
    let tlb = tlb(&[global]);

    assert_eq!(tlb.lookup(OTHER_ASID, VA), Some(&global));
    assert_eq!((tlb.lookup(OTHER_VMID, VA), tlb.lookup(EL2, VA)), (None, None));
}

#[test]
fn el2_has_neither_asid_nor_vmid() {
    let tlb = tlb(&[page(EL2, VA)]);

    assert!(
        tlb.lookup(
            Context {
                asid: 9,
                vmid: Some(1),
                ..EL2
            },
            VA
        )
        .is_some()
    );
}

#[test]
fn a_second_fill_replaces_the_first() {
    let again = TlbEntry {
        payload: 2,
        ..page(GUEST, VA)
    };
    let mut tlb = tlb(&[page(GUEST, VA), again]);

    assert_eq!(tlb.lookup(GUEST, VA), Some(&again));
    assert_eq!(tlb.overlapping(GUEST, VA, 1).count(), 1);
    tlb.invalidate(Tlbi::Alle1);
    assert_eq!(tlb.lookup(GUEST, VA), None);
}

#[test]
fn the_oldest_of_a_full_set_goes() {
    let mut tlb = Tlb::new(0);
    let pages: Vec<Entry> = (0..5).map(|i| page(GUEST, VA + i * PAGE_SIZE)).collect();

    for &page in &pages {
        tlb.fill(page);
    }

    let found: Vec<bool> = pages.iter().map(|page| tlb.lookup(GUEST, page.va).is_some()).collect();
    assert_eq!(found, [false, true, true, true, true]);
}

#[test]
fn neighbouring_pages_fill_every_set() {
    let pages: Vec<Entry> = (0..64).map(|i| page(GUEST, VA + i * PAGE_SIZE)).collect();

    let tlb = tlb(&pages);

    assert!(pages.iter().all(|page| tlb.lookup(GUEST, page.va) == Some(page)));
}

#[test]
fn all_of_a_vmid_goes_with_vmalle1_and_vmalls12e1() {
    let entries = [
        page(GUEST, VA),
        flat(GUEST, Va(0x5000)),
        page(OTHER_VMID, VA),
        page(HOST, VA),
        page(EL2, VA),
    ];
    let vmid = Some(7);

    assert_eq!(left(entries, Tlbi::Vmalle1 { vmid }), [false, false, true, true, true]);
    assert_eq!(
        left(entries, Tlbi::Vmalls12e1 { vmid }),
        [false, false, true, true, true]
    );
}

#[test]
fn a_regime_goes_with_alle1_and_alle2() {
    let entries = [page(GUEST, VA), page(OTHER_VMID, VA), page(HOST, VA), page(EL2, VA)];

    assert_eq!(left(entries, Tlbi::Alle1), [false, false, false, true]);
    assert_eq!(left(entries, Tlbi::Alle2), [true, true, true, false]);
}

#[test]
fn aside1_leaves_global_entries() {
    let global = TlbEntry {
        global: true,
        ..page(GUEST, VA + PAGE_SIZE)
    };
    let entries = [page(GUEST, VA), global, page(OTHER_ASID, VA), page(OTHER_VMID, VA)];

    assert_eq!(
        left(entries, Tlbi::Aside1 { vmid: Some(7), asid: 3 }),
        [false, true, true, true]
    );
}

#[test]
fn vae1_goes_by_address_and_asid_and_takes_global_entries() {
    let global = TlbEntry {
        global: true,
        ..page(OTHER_ASID, VA)
    };
    let next = page(GUEST, VA + PAGE_SIZE);
    let operation = Tlbi::Vae1 {
        vmid: Some(7),
        asid: 3,
        va: VA,
        bytes: PAGE_SIZE,
    };

    assert_eq!(
        left([page(GUEST, VA), next, page(OTHER_VMID, VA), page(EL2, VA)], operation),
        [false, true, true, true]
    );
    assert_eq!(left([page(OTHER_ASID, VA), next], operation), [true, true]);
    assert_eq!(left([global, next], operation), [false, true]);
}

#[test]
fn vaae1_goes_by_address_alone() {
    let entries = [
        page(GUEST, VA),
        page(OTHER_ASID, VA),
        page(GUEST, VA + PAGE_SIZE),
        page(OTHER_VMID, VA),
    ];
    let operation = Tlbi::Vaae1 {
        vmid: Some(7),
        va: VA,
        bytes: PAGE_SIZE,
    };

    assert_eq!(left(entries, operation), [false, false, true, true]);
}

#[test]
fn a_range_takes_what_it_overlaps() {
    let pages = [0, 1, 2, 3].map(|i| page(GUEST, VA + i * PAGE_SIZE));
    let operation = Tlbi::Vaae1 {
        vmid: Some(7),
        va: VA + PAGE_SIZE,
        bytes: 2 * PAGE_SIZE,
    };

    assert_eq!(left(pages, operation), [true, false, false, true]);
}

#[test]
fn vae2_goes_by_address_at_el2() {
    let entries = [page(EL2, VA), page(EL2, VA + PAGE_SIZE), page(HOST, VA)];

    assert_eq!(
        left(
            entries,
            Tlbi::Vae2 {
                va: VA,
                bytes: PAGE_SIZE
            }
        ),
        [false, true, true]
    );
}

#[test]
fn ipas2e1_takes_stage_2_alone_and_leaves_what_combines_both() {
    let combined = TlbEntry {
        ipa: Ipa(0x5000),
        ..page(GUEST, VA)
    };
    let entries = [
        flat(GUEST, Va(0x5000)),
        combined,
        flat(GUEST, Va(0x6000)),
        flat(OTHER_VMID, Va(0x5000)),
    ];
    let operation = Tlbi::Ipas2e1 {
        vmid: 7,
        ipa: Ipa(0x5000),
        bytes: PAGE_SIZE,
    };

    assert_eq!(left(entries, operation), [false, true, true, true]);
}

#[test]
fn any_address_of_a_splintered_stage_1_block_removes_every_piece() {
    let piece = |va| TlbEntry {
        stage1_bits: Some(MIB2),
        ..page(GUEST, va)
    };
    let entries = [piece(VA), piece(VA + 0x7000), piece(VA + (1 << MIB2))];
    let operation = Tlbi::Vae1 {
        vmid: Some(7),
        asid: 3,
        va: VA + 0x1f_f000,
        bytes: PAGE_SIZE,
    };

    assert_eq!(left(entries, operation), [false, false, true]);
}

#[test]
fn overlapping_entries_of_any_size_are_named() {
    let block = TlbEntry {
        bits: MIB2,
        stage1_bits: Some(MIB2),
        global: true,
        ..page(GUEST, VA)
    };
    let inside = page(GUEST, VA + PAGE_SIZE);
    let tlb = tlb(&[block, inside, page(OTHER_ASID, VA), page(GUEST, VA + (1 << MIB2))]);

    let mut sizes: Vec<u32> = tlb
        .overlapping(GUEST, VA, 2 * PAGE_SIZE)
        .map(|entry| entry.bits)
        .collect();
    sizes.sort_unstable();

    assert_eq!(sizes, [12, MIB2]);
    assert_eq!(tlb.overlapping(GUEST, VA, PAGE_SIZE).count(), 1);
    assert_eq!(tlb.overlapping(OTHER_VMID, VA, 1 << 40).count(), 0);
}
