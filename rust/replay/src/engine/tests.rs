//! Tests of the engine: real faults, real reclaim, planted bugs, and cuts that change nothing.

use super::*;
use crate::heap::Place;
use crate::record::Columns;
use proptest::prelude::*;
use tagvisor_host::Policy;

const HEAP: u64 = 0x5555_5555_6010;
const STACK: u64 = 0x7fff_ffff_e000;

fn config(memory_pages: u64) -> Config {
    Config {
        memory: memory_pages * PAGE_SIZE,
        swap: 4096 * PAGE_SIZE,
        ledger: false,
        log: false,
        tlb_bits: 8,
        ..Config::default()
    }
}

fn engine(limit: Option<u64>) -> Engine {
    engine_on(&config(4096), limit)
}

fn engine_on(config: &Config, limit: Option<u64>) -> Engine {
    let options = Options {
        guest_pages: 4096,
        limit,
        ..Options::default()
    };
    Engine::boot(config, options).unwrap()
}

fn columns(events: &[(Op, u64, u32)]) -> Columns {
    let mut columns = Columns::default();
    for &(op, addr, size) in events {
        columns.push(Event { addr, size, op });
    }
    columns
}

fn replay(engine: &mut Engine, events: &[(Op, u64, u32)]) -> Counters {
    engine.step(columns(events).as_batch()).unwrap()
}

#[test]
fn a_correct_program_faults_its_pages_in_and_never_mismatches() {
    let mut engine = engine(None);
    let counters = replay(
        &mut engine,
        &[
            (Op::Store, STACK, 8),
            (Op::Malloc, HEAP, 40),
            (Op::Store, HEAP, 8),
            (Op::Load, HEAP + 32, 8),
            (Op::ReallocFrom, HEAP, 0),
            (Op::Realloc, HEAP, 100),
            (Op::Store, HEAP + 92, 8),
            (Op::Free, HEAP, 0),
            (Op::Load, STACK + 4088, 16),
        ],
    );
    assert_eq!((counters.events, counters.accesses), (9, 5));
    assert_eq!((counters.loads, counters.stores), (2, 3));
    assert_eq!((counters.mallocs, counters.reallocs, counters.frees), (1, 1, 1));
    assert_eq!((counters.mismatches, counters.invalid_frees), (0, 0));
    assert_eq!((counters.pages, counters.stage2_faults), (3, 3));
    assert_eq!(counters.tag_checks, 7);
}

#[test]
fn use_after_free_is_a_mismatch_at_its_place() {
    let mut engine = engine(None);
    let counters = replay(
        &mut engine,
        &[(Op::Malloc, HEAP, 40), (Op::Free, HEAP, 0), (Op::Load, HEAP + 8, 4)],
    );
    assert_eq!(counters.mismatches, 1);
    let found = engine.mismatches()[0];
    assert_eq!(
        (found.event, found.addr, found.size, found.write),
        (2, HEAP + 8, 4, false)
    );
    assert_ne!(found.logical, found.allocation);
    assert!(matches!(found.place, Place::Inside(HEAP, chunk) if !chunk.live && chunk.size == 40));
}

#[test]
fn overflow_into_the_next_granule_is_a_mismatch_also_across_pages() {
    let mut engine = engine(None);
    let last = (HEAP & !0xfff) + 0x1000 - 32;
    let counters = replay(
        &mut engine,
        &[
            (Op::Malloc, last, 32),
            (Op::Store, last + 24, 8),
            (Op::Store, last + 28, 8),
            (Op::Store, last + 32, 1),
        ],
    );
    assert_eq!(counters.mismatches, 2);
    assert_eq!(engine.mismatches()[0].event, 2);
    assert_eq!(engine.mismatches()[0].allocation, Tag::ZERO);
}

#[test]
fn tags_survive_reclaim_under_a_limit() {
    let mut engine = engine(Some(8));
    let mut events = Vec::new();
    for i in 0..64 {
        events.push((Op::Malloc, HEAP + i * 4096, 4000));
    }
    for round in 0..4 {
        for i in 0..64 {
            events.push((Op::Load, HEAP + i * 4096 + round * 64, 8));
        }
    }
    let counters = replay(&mut engine, &events);
    assert_eq!(counters.mismatches, 0);
    assert!(counters.resident_pages <= 9, "{counters:?}");
    assert!(counters.swap_outs >= 56 && counters.swap_ins >= 56, "{counters:?}");
    assert!(counters.saved_tag_bytes_peak >= 56 * 128, "{counters:?}");
}

#[test]
fn saved_tags_that_live_as_long_as_the_slot_outlive_the_restore() {
    let peak = |erased: &str| {
        let policy = Policy::profile("linux-6.12").unwrap().with("K1", erased).unwrap();
        let options = Options {
            guest_pages: 4096,
            limit: Some(8),
            ..Options::default()
        };
        let mut engine = Engine::boot(&Config { policy, ..config(4096) }, options).unwrap();
        let mut events: Vec<_> = (0..64).map(|i| (Op::Malloc, HEAP + i * 4096, 4000)).collect();
        for _ in 0..6 {
            events.extend((0..64).map(|i| (Op::Load, HEAP + i * 4096, 8)));
        }
        let counters = replay(&mut engine, &events);
        counters.saved_tag_bytes_peak
    };
    assert_eq!(peak("restore"), (64 - 8) * 128, "only of pages that are out");
    assert_eq!(
        peak("slot-free"),
        64 * 128,
        "also of pages that are back and keep their slot"
    );
}

#[test]
fn double_free_is_counted_and_changes_nothing() {
    let mut engine = engine(None);
    let events = [(Op::Malloc, HEAP, 40), (Op::Free, HEAP, 0), (Op::Free, HEAP, 0)];
    let counters = replay(&mut engine, &events);
    assert_eq!(
        (counters.frees, counters.invalid_frees, counters.live_chunks),
        (1, 1, 0)
    );
}

#[test]
fn accesses_larger_than_a_page_of_granules_are_checked_whole() {
    let mut engine = engine(None);
    let counters = replay(
        &mut engine,
        &[
            (Op::Malloc, HEAP, 2000),
            (Op::Load, HEAP, 2000),
            (Op::Store, HEAP, 2001),
        ],
    );
    assert_eq!(counters.mismatches, 1);
    assert_eq!(counters.tag_checks, 125 + 126);
}

#[test]
fn mismatches_are_counted_beyond_those_that_are_kept() {
    let mut engine = engine(None);
    let mut events = vec![(Op::Malloc, HEAP, 40), (Op::Free, HEAP, 0)];
    events.extend((0..250).map(|_| (Op::Load, HEAP, 8)));
    assert_eq!(replay(&mut engine, &events).mismatches, 250);
    assert_eq!(engine.mismatches().len(), MISMATCHES_KEPT);
}

#[test]
fn a_row_that_is_no_event_stops_with_its_number_and_the_counters_so_far() {
    let mut engine = engine(None);
    replay(&mut engine, &[(Op::Load, STACK, 8)]);
    let mut bad = columns(&[(Op::Load, STACK, 8), (Op::Load, STACK, 8)]);
    bad.op[1] = 99;
    let error = engine.step(bad.as_batch()).unwrap_err();
    let expected = RecordError::UnknownOp { row: 1, op: 99 };
    assert_eq!(
        error,
        ReplayError::Record {
            event: 2,
            error: expected
        }
    );
    assert_eq!(engine.counters().events, 2);
}

#[test]
fn a_full_guest_stops_the_replay() {
    let options = Options {
        guest_pages: 2,
        ..Options::default()
    };
    let mut engine = Engine::boot(&config(4096), options).unwrap();
    let events: Vec<_> = (0..3).map(|i| (Op::Load, STACK + i * 4096, 8)).collect();
    let error = engine.step(columns(&events).as_batch()).unwrap_err();
    assert_eq!(
        error,
        ReplayError::GuestFull {
            event: 2,
            error: GuestFull { capacity: 2 }
        }
    );
}

#[test]
fn samples_come_every_so_many_events_however_they_are_cut() {
    let options = Options {
        guest_pages: 4096,
        sample_every: 10,
        ..Options::default()
    };
    let events: Vec<_> = (0..35).map(|i| (Op::Load, STACK + i * 4096, 8)).collect();
    let whole = columns(&events);
    let mut one = Engine::boot(&config(4096), options).unwrap();
    one.step(whole.as_batch()).unwrap();
    let mut many = Engine::boot(&config(4096), options).unwrap();
    for at in 0..35 {
        many.step(whole.as_batch().slice(at, 1)).unwrap();
    }
    assert_eq!(one.samples().len(), 3);
    assert_eq!(one.samples()[1].accesses, 20);
    assert_eq!(one.samples(), many.samples());
}

fn any_events() -> impl Strategy<Value = Vec<(Op, u64, u32)>> {
    let event = (0_usize..6, 0_u64..40, 0_u64..512, 1_u32..300).prop_map(|(op, slot, at, size)| {
        let base = HEAP + slot * 1024;
        match Op::ALL[op] {
            op @ (Op::Load | Op::Store) => (op, base + at, size),
            op @ (Op::Malloc | Op::Realloc) => (op, base, size * 3),
            op => (op, base, 0),
        }
    });
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn results_do_not_depend_on_the_batches(
        events in any_events(),
        cut in any::<prop::sample::Index>(),
        limit in 2_u64..20,
    ) {
        let whole = columns(&events);
        let mut one = engine(Some(limit));
        let counters = one.step(whole.as_batch()).unwrap();
        let mut two = engine(Some(limit));
        let at = cut.index(events.len());
        two.step(whole.as_batch().slice(0, at)).unwrap();
        let again = two.step(whole.as_batch().slice(at, usize::MAX)).unwrap();
        prop_assert_eq!(counters, again);
        prop_assert_eq!(one.mismatches(), two.mismatches());
    }

    /// Without a TLB nothing is a hit, so every access is the guest's instruction on the real path: blocks, whichever way
    /// they go, must count the same.
    #[test]
    fn blocks_count_what_single_instructions_would(events in any_events(), order in prop::collection::vec(0_usize..120, 60)) {
        let mut events = events;
        // Heap events first, then long runs of accesses: some stay on a page, some jump.
        let jumps = order.iter().filter_map(|n| events.get(*n).copied()).filter(|(op, ..)| matches!(op, Op::Load | Op::Store));
        let jumps: Vec<_> = jumps.collect();
        let stays = jumps.iter().flat_map(|(op, addr, size)| (0..6).map(move |n| (*op, addr + 16 * n, size % 64 + 1)));
        events.extend(jumps.iter().copied().chain(stays));
        let rows = columns(&events);
        let mut fast = engine(None);
        let mut slow = engine_on(&Config { tlb_bits: 0, ..config(4096) }, None);
        prop_assert_eq!(fast.step(rows.as_batch()).unwrap(), slow.step(rows.as_batch()).unwrap());
        prop_assert_eq!(fast.mismatches(), slow.mismatches());
    }

    /// Memory pressure costs time, never tags: the verdicts are those of a machine with room for everything.
    #[test]
    fn pressure_changes_no_verdict(events in any_events(), limit in 2_u64..20) {
        let whole = columns(&events);
        let mut roomy = engine(None);
        let mut tight = engine(Some(limit));
        let a = roomy.step(whole.as_batch()).unwrap();
        let b = tight.step(whole.as_batch()).unwrap();
        prop_assert_eq!(a.mismatches, b.mismatches);
        prop_assert_eq!(roomy.mismatches(), tight.mismatches());
    }
}

#[test]
fn a_hit_is_what_a_single_check_would_pass_inner_granules_included() {
    let mut engine = engine(None);
    replay(&mut engine, &[(Op::Store, HEAP, 8)]);
    let (vcpu, base) = (engine.vcpu, GUEST_BASE);
    let tagged = |tag: u64, offset: u64| (base + offset) | (tag << 56);
    engine.machine.guest_set_tags(vcpu, tagged(5, 0), 64).unwrap();
    engine.machine.guest_set_tags(vcpu, tagged(6, 16), 16).unwrap();
    for (offset, size) in [(0, 16), (0, 17), (0, 48), (8, 40), (32, 32), (40, 8), (15, 1), (63, 2)] {
        for tag in [5, 6] {
            let pointer = tagged(tag, offset);
            let hits = engine.machine.guest_check_hits(vcpu, &[pointer], &[size], &[0]);
            let page = engine.machine.guest_page(vcpu, Va(base)).unwrap();
            let passes = page.passes(offset, size, Tag::new(tag as u8), false);
            let checked = engine.machine.guest_check(vcpu, pointer, size, false);
            assert_eq!(passes, checked == Checked::Ok, "{size} bytes at {offset}, tag {tag}");
            assert_eq!(hits == 1, checked == Checked::Ok, "{size} bytes at {offset}, tag {tag}");
        }
    }
}
