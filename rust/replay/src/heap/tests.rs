//! Tests of the colouring against a plain map of granules.

use super::*;
use proptest::prelude::*;

/// Memory tags and pointer tags by granule, as the paints leave them.
#[derive(Default)]
struct Canvas {
    memory: BTreeMap<u64, Tag>,
    pointer: BTreeMap<u64, Tag>,
}

impl Canvas {
    fn apply(&mut self, paints: &[Paint]) {
        for paint in paints {
            assert_eq!((paint.addr % 16, paint.bytes % 16), (0, 0));
            for at in (paint.addr..paint.addr + paint.bytes).step_by(16) {
                if let Some(tag) = paint.memory {
                    self.memory.insert(at, tag);
                }
                if let Some(tag) = paint.pointer {
                    self.pointer.insert(at, tag);
                }
            }
        }
    }

    fn memory(&self, addr: u64) -> Tag {
        self.memory.get(&granule(addr)).copied().unwrap_or_default()
    }

    fn pointer(&self, addr: u64) -> Tag {
        self.pointer.get(&granule(addr)).copied().unwrap_or_default()
    }

    fn matches(&self, addr: u64) -> bool {
        self.memory(addr) == self.pointer(addr)
    }
}

struct Run {
    heap: Heap,
    canvas: Canvas,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            heap: Heap::new(seed),
            canvas: Canvas::default(),
        }
    }

    fn malloc(&mut self, ptr: u64, size: u64) {
        let mut out = Vec::new();
        self.heap.malloc(ptr, size, &mut out);
        self.canvas.apply(&out);
    }

    fn free(&mut self, ptr: u64) -> Result<(), HeapFault> {
        let mut out = Vec::new();
        let result = self.heap.free(ptr, &mut out);
        self.canvas.apply(&out);
        result
    }

    fn realloc(&mut self, old: u64, new: u64, size: u64) -> Result<(), HeapFault> {
        let mut out = Vec::new();
        let result = self.heap.realloc(old, new, size, &mut out);
        self.canvas.apply(&out);
        result
    }
}

const P: u64 = 0x5010;

#[test]
fn allocation_is_coloured_between_two_granules_of_tag_zero() {
    let mut run = Run::new(1);
    run.malloc(P, 24);
    let tag = run.canvas.memory(P);
    assert_ne!(tag, Tag::ZERO);
    assert_eq!(run.canvas.memory(P + 16), tag);
    assert_eq!(run.canvas.memory(P - 16), Tag::ZERO);
    assert_eq!(run.canvas.memory(P + 32), Tag::ZERO);
    assert!(run.canvas.matches(P) && run.canvas.matches(P + 31));
}

#[test]
fn overflow_and_underflow_of_a_granule_mismatch() {
    let mut run = Run::new(1);
    run.malloc(P, 24);
    assert!(!run.canvas.matches(P + 32));
    assert!(!run.canvas.matches(P - 1));
}

#[test]
fn first_use_after_free_always_mismatches() {
    for seed in 0..200 {
        let mut run = Run::new(seed);
        run.malloc(P, 64);
        run.free(P).unwrap();
        assert!((0..64).step_by(16).all(|at| !run.canvas.matches(P + at)), "seed {seed}");
    }
}

#[test]
fn next_allocation_at_the_address_keeps_the_tag_of_the_free() {
    for seed in 0..50 {
        let mut run = Run::new(seed);
        run.malloc(P, 64);
        let first = run.canvas.memory(P);
        run.free(P).unwrap();
        let freed = run.canvas.memory(P);
        run.malloc(P, 40);
        assert_eq!(run.canvas.memory(P), freed);
        assert_ne!(freed, first);
        assert!(run.canvas.matches(P));
        assert_eq!(run.canvas.memory(P + 48), Tag::ZERO);
    }
}

#[test]
fn tags_are_one_to_fifteen_and_all_of_them() {
    let mut seen = [0_u32; 16];
    let mut heap = Heap::new(3);
    for exclude in 0..16 {
        for _ in 0..1500 {
            let tag = heap.random_tag(Tag::new(exclude));
            assert!(tag != Tag::ZERO && tag.get() != exclude);
            seen[usize::from(tag.get())] += 1;
        }
    }
    assert_eq!(seen[0], 0);
    assert!(seen[1..].iter().all(|&n| (1350..1850).contains(&n)), "{seen:?}");
}

#[test]
fn resize_in_place_keeps_the_tag_and_moves_the_end() {
    let mut run = Run::new(5);
    run.malloc(P, 32);
    let tag = run.canvas.memory(P);
    run.realloc(P, P, 96).unwrap();
    assert!((0..96).step_by(16).all(|at| run.canvas.memory(P + at) == tag));
    run.realloc(P, P, 16).unwrap();
    assert_eq!(run.canvas.memory(P), tag);
    assert!((16..96).step_by(16).all(|at| !run.canvas.matches(P + at)));
}

#[test]
fn moved_resize_leaves_the_old_place_freed() {
    let mut run = Run::new(5);
    run.malloc(P, 32);
    run.realloc(P, P + 0x100, 64).unwrap();
    assert!(!run.canvas.matches(P));
    assert!(run.canvas.matches(P + 0x100));
    assert_eq!(run.heap.live_chunks(), 1);
}

#[test]
fn wrong_frees_are_told_apart_and_change_nothing() {
    let mut run = Run::new(1);
    assert_eq!(run.free(P), Err(HeapFault::UnknownPointer));
    run.malloc(P, 32);
    assert_eq!(run.free(P + 16), Err(HeapFault::UnknownPointer));
    run.free(P).unwrap();
    let before = run.canvas.memory(P);
    assert_eq!(run.free(P), Err(HeapFault::DoubleFree));
    assert_eq!(run.canvas.memory(P), before);
}

#[test]
fn large_allocation_has_no_colour_and_cleans_what_it_covers() {
    let mut run = Run::new(1);
    run.malloc(P, 32);
    run.free(P).unwrap();
    run.malloc(P, LARGEST_COLOURED + 1);
    assert_eq!(run.canvas.memory(P), Tag::ZERO);
    assert!(run.canvas.matches(P) && run.canvas.matches(P + LARGEST_COLOURED));
}

#[test]
fn neighbour_without_a_header_keeps_its_tag() {
    let mut run = Run::new(9);
    run.malloc(P + 32, 32);
    let neighbour = run.canvas.memory(P + 32);
    run.malloc(P, 32);
    assert_eq!(run.canvas.memory(P + 32), neighbour);
    assert!(run.canvas.matches(P + 32) && run.canvas.matches(P));
}

#[test]
fn allocation_of_nothing_cannot_be_used() {
    let mut run = Run::new(9);
    run.malloc(P, 0);
    assert!(!run.canvas.matches(P));
    run.free(P).unwrap();
}

#[test]
fn places_are_told_in_words_of_the_allocation() {
    let mut run = Run::new(9);
    run.malloc(P, 24);
    let chunk = run.heap.chunks[&P];
    assert_eq!(run.heap.place(P + 23), Place::Inside(P, chunk));
    assert_eq!(run.heap.place(P + 32), Place::After(P, chunk, 8));
    assert_eq!(run.heap.place(P - 8), Place::Before(P, chunk, 8));
    assert_eq!(run.heap.place(P + 0x1000), Place::Elsewhere);
}

proptest! {
    /// A correct program never mismatches, whatever its allocator's placement with one granule between chunks.
    #[test]
    fn live_allocations_always_match(
        seed: u64,
        calls in prop::collection::vec((0_u64..24, 0_u64..100, any::<bool>()), 1..60),
    ) {
        // Slots of 128 bytes in one run, so that neighbours share the granule between them.
        let mut run = Run::new(seed);
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for (slot, size, resize) in calls {
            let ptr = P + slot * 128;
            match (live.get(&ptr).copied(), resize) {
                (None, _) => {
                    run.malloc(ptr, size);
                    live.insert(ptr, size);
                }
                (Some(_), true) => {
                    run.realloc(ptr, ptr, size).unwrap();
                    live.insert(ptr, size);
                }
                (Some(old), false) => {
                    run.free(ptr).unwrap();
                    live.remove(&ptr);
                    if old > 0 {
                        prop_assert!(!run.canvas.matches(ptr));
                    }
                }
            }
            for (&ptr, &size) in &live {
                for at in (0..size).step_by(8) {
                    prop_assert!(run.canvas.matches(ptr + at));
                }
                prop_assert!(!run.canvas.matches(ptr + size.next_multiple_of(16)));
            }
            prop_assert_eq!(run.heap.live_chunks(), live.len());
        }
    }

    #[test]
    fn chunks_on_record_never_overlap(
        seed: u64,
        calls in prop::collection::vec((0_u64..64, 0_u64..400), 1..60),
    ) {
        let mut run = Run::new(seed);
        for (slot, size) in calls {
            run.malloc(P + slot * 16, size);
            let all: Vec<_> = run.heap.chunks.iter().collect();
            for pair in all.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1.payload() <= *pair[1].0);
            }
        }
    }
}
