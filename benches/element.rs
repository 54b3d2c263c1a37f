//! Accesses and walks of the bare processing element beside native loops: a page lookup with permission test, tag compare and
//! load; the dependent loads of a two-stage walk.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tagvisor_bench::{Accesses, SEED, Walks};

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    elements: u64,
) -> criterion::BenchmarkGroup<'a, criterion::measurement::WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(elements))
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    group
}

fn accesses(criterion: &mut Criterion) {
    for (name, mut setting) in [
        ("access.seq", Accesses::sequential(SEED)),
        ("access.random", Accesses::random(SEED)),
    ] {
        let mut group = group(criterion, name, setting.count());
        group.bench_function("ours", |bencher| bencher.iter(|| setting.load_all()));
        group.bench_function("check", |bencher| bencher.iter(|| setting.check_all()));
        group.bench_function("floor", |bencher| {
            bencher.iter(|| setting.load_all_by_floor());
        });
        group.finish();
    }
}

fn blocks(criterion: &mut Criterion) {
    let mut setting = Accesses::blocks(SEED);
    let mut group = group(criterion, "access.blocks", setting.count());
    group.bench_function("stgm", |bencher| bencher.iter(|| setting.stgm_all()));
    group.bench_function("ldgm", |bencher| bencher.iter(|| setting.ldgm_all()));
    group.bench_function("load", |bencher| bencher.iter(|| setting.load_all()));
    group.finish();
}

fn walks(criterion: &mut Criterion) {
    let mut setting = Walks::new(SEED);
    let mut group = group(criterion, "access.walk", setting.count());
    group.bench_function("ours", |bencher| bencher.iter(|| setting.walk_all()));
    group.bench_function("root", |bencher| {
        bencher.iter(|| setting.walk_all_from_root());
    });
    group.bench_function("floor", |bencher| {
        bencher.iter(|| setting.walk_all_by_floor());
    });
    group.finish();
}

criterion_group!(benches, accesses, blocks, walks);
criterion_main!(benches);
