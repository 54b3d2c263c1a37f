//! Tagged memory beside what no implementation of it can do without: the C library's fill, copy and comparison of the same
//! bytes, loads that depend on each other in flat memory, a store to an array.
//!
//! Models nothing. Both sides run over the same number of pages, few enough for the level-1 cache or far too many for any.
//! Invariant: a descriptor chase visits the same words in the same order on either side.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use std::hint::black_box;
use std::time::Duration;
use tagvisor_arch::{DescriptorSource, Ipa, PAGE_SIZE, PAGE_TAG_BYTES, Pa, PageTags, Tag, Va};
use tagvisor_bench::SEED;
use tagvisor_mem::{
    Context, MicroTlb, MicroTlbEntry, PhysMem, Regime, Region, Tlb, TlbEntry, TlbFlags, Tlbi,
};
use tagvisor_replay::rng::SplitMix64;

const RAM: Pa = Pa(0x4000_0000);
const WORD: u64 = 8;

fn group<'c>(
    criterion: &'c mut Criterion,
    name: &str,
    elements: u64,
) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(elements))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}

/// Whole pages of tags: 16 KiB of them and 64 MiB.
fn page_tags(criterion: &mut Criterion) {
    for (size, pages) in [
        ("l1", (16 << 10) / PAGE_TAG_BYTES),
        ("64m", (64 << 20) / PAGE_TAG_BYTES),
    ] {
        // Copying and comparing go from one half to the other.
        let mut tags = vec![PageTags::uniform(Tag::new(3)); pages];
        let mut bytes = vec![[0x33_u8; PAGE_TAG_BYTES]; pages];

        let mut fill = group(criterion, &format!("tags.fill.{size}"), pages as u64);
        fill.bench_function("ours", |bencher| {
            bencher.iter(|| {
                for page in &mut tags {
                    black_box(page).fill(black_box(Tag::new(3)));
                }
            });
        });
        fill.bench_function("memset", |bencher| {
            bencher.iter(|| {
                for page in &mut bytes {
                    black_box(page).fill(black_box(0x33));
                }
            });
        });
        fill.finish();

        let half = pages / 2;
        let mut copy = group(criterion, &format!("tags.copy.{size}"), half as u64);
        copy.bench_function("ours", |bencher| {
            bencher.iter(|| {
                let (to, from) = tags.split_at_mut(half);
                for (to, from) in to.iter_mut().zip(from) {
                    black_box(to).copy_range(0, black_box(from), 0..256);
                }
            });
        });
        copy.bench_function("memcpy", |bencher| {
            bencher.iter(|| {
                let (to, from) = bytes.split_at_mut(half);
                for (to, from) in to.iter_mut().zip(from) {
                    black_box(to).copy_from_slice(black_box(from));
                }
            });
        });
        copy.finish();

        let mut compare = group(criterion, &format!("tags.compare.{size}"), half as u64);
        compare.bench_function("ours", |bencher| {
            bencher.iter(|| {
                let (one, other) = tags.split_at(half);
                let pairs = one.iter().zip(other);
                pairs
                    .filter_map(|(one, other)| {
                        black_box(one).first_mismatch(black_box(other), 0..256)
                    })
                    .count()
            });
        });
        compare.bench_function("memcmp", |bencher| {
            bencher.iter(|| {
                let (one, other) = bytes.split_at(half);
                one.iter()
                    .zip(other)
                    .filter(|&(one, other)| black_box(one) != black_box(other))
                    .count()
            });
        });
        compare.bench_function("ours_with_a_tag", |bencher| {
            bencher.iter(|| {
                let pages = tags[..half].iter();
                pages
                    .filter_map(|page| {
                        black_box(page).first_tag_mismatch(black_box(Tag::new(3)), 0..256)
                    })
                    .count()
            });
        });
        compare.finish();
    }
}

/// Loads of which each gives the address of the next, `per_page` of them in each of some pages.
fn chase(criterion: &mut Criterion, name: &str, pages: u64, per_page: u64) {
    let loads = pages * per_page;
    // Other offsets in each page, or they would all compete for the same few cache lines.
    let place = |page: u64, i: u64| page * PAGE_SIZE + (page * 72 + i * 40) % PAGE_SIZE;
    let mut order: Vec<u64> = (0..loads).map(|i| place(i % pages, i / pages)).collect();
    let mut rng = SplitMix64::new(SEED);
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    let mut memory = PhysMem::new(vec![Region::ram(RAM, 1 << 30, "ram")]).expect("a legal map");
    let mut flat = vec![0_u64; (pages * PAGE_SIZE / WORD) as usize];
    for (i, &at) in order.iter().enumerate() {
        let next = order[(i + 1) % order.len()];
        memory.write_u64(RAM + at, (RAM + next).0);
        flat[(at / WORD) as usize] = next;
    }

    let mut group = group(criterion, name, loads);
    // The chain goes on from one iteration to the next, or the processor would run several at once.
    let (mut at, mut flat_at) = (RAM + order[0], order[0]);
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            for _ in 0..loads {
                at = Pa(memory.read_descriptor(at).expect("online RAM"));
            }
            at
        });
    });
    group.bench_function("flat", |bencher| {
        bencher.iter(|| {
            for _ in 0..loads {
                flat_at = flat[(flat_at / WORD) as usize];
            }
            flat_at
        });
    });
    group.finish();
}

fn descriptors(criterion: &mut Criterion) {
    // The tables of one address: 4 levels of stage 1, each found through 3 levels of stage 2.
    chase(criterion, "descriptors.walk", 15, 1);
    // As many words as a level-1 cache holds, of as many tables as a guest of 64 MiB has.
    chase(criterion, "descriptors.tables", 40, 64);
    chase(criterion, "descriptors.pages_1024", 1024, 4);
    chase(criterion, "descriptors.pages_16384", 16384, 4);
}

/// 64-bit stores to 16 pages in turn.
fn stores(criterion: &mut Criterion) {
    const PAGES: u64 = 16;
    let mut memory = PhysMem::new(vec![Region::ram(RAM, 1 << 30, "ram")]).expect("a legal map");
    let mut flat = vec![0_u64; (PAGES * PAGE_SIZE / WORD) as usize];
    let places: Vec<u64> = (0..1024)
        .map(|i| i % PAGES * PAGE_SIZE + i / PAGES * WORD)
        .collect();
    let mut group = group(criterion, "stores", places.len() as u64);
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            for &at in black_box(&places) {
                memory.write_u64(RAM + at, at);
            }
            black_box(&mut memory);
        });
    });
    group.bench_function("flat", |bencher| {
        bencher.iter(|| {
            for &at in black_box(&places) {
                flat[(at / WORD) as usize] = at;
            }
            black_box(&mut flat);
        });
    });
    group.finish();
}

/// A clone of an explored machine's memory, a dozen pages, and a store to one of them.
fn clones(criterion: &mut Criterion) {
    let mut memory = PhysMem::new(vec![Region::ram(RAM, 1 << 30, "ram")]).expect("a legal map");
    for page in 0..12 {
        memory.write_u64(RAM + page * PAGE_SIZE, page + 1);
    }
    let mut group = group(criterion, "clone", 1);
    group.bench_function("chain", |bencher| {
        let mut last = memory.clone();
        bencher.iter(|| {
            let mut next = last.clone();
            next.write_u64(RAM + 3 * PAGE_SIZE, 7);
            last = next;
        });
    });
    group.bench_function("siblings", |bencher| {
        let last = memory.clone();
        bencher.iter(|| last.clone());
    });
    group.finish();
}

/// Look-ups of 1024 pages in turn, in a TLB that also holds blocks of 2 MiB and 1 GiB, and in a micro TLB.
fn tlbs(criterion: &mut Criterion) {
    const PAGES: u64 = 1024;
    let context = Context {
        regime: Regime::El10,
        vmid: Some(1),
        asid: 1,
    };
    let entry = |va: u64, bits: u32| TlbEntry {
        context,
        global: false,
        va: Va(va),
        bits,
        stage1_bits: Some(bits),
        ipa: Ipa(va),
        pa: Pa(va),
        payload: TlbFlags::READ,
    };
    let (mut tlb, mut micro) = (Tlb::new(9), MicroTlb::new(11));
    tlb.fill(entry(1 << 40, 30));
    tlb.fill(entry(1 << 41, 21));
    for page in 0..PAGES {
        tlb.fill(entry(page * PAGE_SIZE, 12));
        micro.fill(MicroTlbEntry {
            page,
            frame: page as u32,
            flags: TlbFlags::READ,
        });
    }
    let mut group = group(criterion, "tlb.lookup", PAGES);
    let pages = || (0..PAGES).map(black_box);
    group.bench_function("page", |bencher| {
        bencher.iter(|| {
            pages()
                .filter_map(|page| tlb.lookup(context, Va(page * PAGE_SIZE)))
                .count()
        });
    });
    group.bench_function("block", |bencher| {
        bencher.iter(|| {
            pages()
                .filter_map(|page| tlb.lookup(context, Va((1 << 40) + page * PAGE_SIZE)))
                .count()
        });
    });
    group.bench_function("micro", |bencher| {
        bencher.iter(|| pages().filter_map(|page| micro.lookup(page)).count());
    });
    group.bench_function("invalidate_nothing", |bencher| {
        bencher.iter(|| {
            tlb.invalidate(Tlbi::Ipas2e1 {
                vmid: 1,
                ipa: Ipa(0),
                bytes: PAGES * PAGE_SIZE,
            });
        });
    });
    group.finish();
}

criterion_group!(benches, page_tags, descriptors, stores, clones, tlbs);
criterion_main!(benches);
