//! Cost follows what is touched, never what is configured. A test of its own process, so that nothing else grows it.

#![cfg(target_os = "linux")]

use tagvisor_arch::{PAGE_SIZE, Pa, Tag};
use tagvisor_mem::{MicroTlb, PhysMem, Region};

/// Bytes of this process that are resident.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = statm.split_whitespace().nth(1).expect("the second field");
    // The kernel's page may be larger than 4 KiB; then this is an underestimate of both readings alike.
    pages.parse::<u64>().expect("a number") * PAGE_SIZE
}

#[test]
fn a_tebibyte_with_100_touched_pages_costs_less_than_50_mb() {
    let before = resident_bytes();

    let mut memory = PhysMem::new(vec![Region::ram(Pa(1 << 40), 1 << 40, "ram")]).unwrap();
    let tlbs: Vec<MicroTlb> = (0..64).map(|_| MicroTlb::new(16)).collect();
    for page in 0..100 {
        let pa = Pa((1 << 40) + page * (10 << 30));
        memory.write_u64(pa, page + 1);
        memory.set_tag(pa, Tag::new(7));
    }
    let copies: Vec<PhysMem> = (0..100).map(|_| memory.clone()).collect();

    let growth = resident_bytes().saturating_sub(before);
    assert!(
        growth < 50_000_000,
        "{growth} bytes for {} frames",
        memory.touched_frames()
    );
    assert_eq!(memory.touched_frames(), 100);
    assert_eq!(copies[99].read_u64(Pa((1 << 40) + 99 * (10 << 30))), 100);
    assert!(tlbs.iter().all(|tlb| tlb.lookup(0).is_none()));
}
