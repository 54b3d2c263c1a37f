//! Checked accesses in replay beside the native loop that only reads the record, looks the tag up and compares.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tagvisor_bench::{Checked, SEED};

fn checked(criterion: &mut Criterion, name: &str, mut setting: Checked) {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(setting.loads()))
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    group.bench_function("ours", |bencher| bencher.iter(|| setting.run_ours()));
    group.bench_function("floor", |bencher| bencher.iter(|| setting.run_floor()));
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    checked(criterion, "replay.seq", Checked::sequential(SEED));
    checked(criterion, "replay.random", Checked::random(SEED));
}

criterion_group!(benches, replay);
criterion_main!(benches);
