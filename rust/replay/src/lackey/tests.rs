//! Tests of the importer: joined stream, cuts anywhere, hostile lines, speed.

use super::*;
use proptest::prelude::*;

/// The lines the wrapper's stores make for one committed operation.
fn heap_lines(op: u64, pointer: u64, size: u64, old: u64) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let mut send = |lane: u64, payload: u64| {
        writeln!(text, " S {:08x},1", WINDOW + (lane << 16) + payload).unwrap();
    };
    for (first, lanes, value) in [(1, 3, pointer), (4, 4, size), (8, 3, old)] {
        for i in 0..lanes {
            let chunk = value >> (16 * i) & 0xffff;
            if chunk != 0 {
                send(first + i, chunk);
            }
        }
    }
    send(0, op);
    text
}

fn import(text: &str) -> (Columns, Importer) {
    let mut importer = Importer::new(None);
    importer.feed(text.as_bytes()).unwrap();
    (importer.drain(), importer)
}

fn events(columns: &Columns) -> Vec<Event> {
    columns.as_batch().iter().map(Result::unwrap).collect()
}

#[test]
fn accesses_become_loads_and_stores_and_a_modify_becomes_both() {
    let (columns, importer) = import("I  04001000,3\n L 1ffeffe7e0,8\n S 04222cac,4\n M 0421c7cc,1\n");
    assert_eq!(
        events(&columns),
        [
            Event {
                op: Op::Load,
                addr: 0x001f_feff_e7e0,
                size: 8
            },
            Event {
                op: Op::Store,
                addr: 0x0422_2cac,
                size: 4
            },
            Event {
                op: Op::Load,
                addr: 0x0421_c7cc,
                size: 1
            },
            Event {
                op: Op::Store,
                addr: 0x0421_c7cc,
                size: 1
            },
        ]
    );
    assert_eq!(importer.tally().accesses(), 4);
    assert_eq!(importer.tally().lines, 4);
    assert_eq!(importer.pages(), 3);
}

#[test]
fn heap_events_stand_in_order_between_the_accesses() {
    let text = [
        heap_lines(1, 0, 0, 0),
        " S 1000,8\n".into(),
        heap_lines(2, 0, 0, 0),
        " S 5008,8\n".into(), // the allocator writes its own header
        heap_lines(3, 0x0000_7fff_1234_5670, 24, 0),
        " S 5010,8\n".into(),
        heap_lines(2, 0, 0, 0),
        heap_lines(5, 0x6010, 0x1_0000_0000_0000, 0x5010),
        heap_lines(4, 0x6010, 0, 0),
        " L 6010,8\n".into(), // the allocator again
        heap_lines(6, 0, 0, 0),
        " L 1000,8\n".into(),
    ]
    .concat();
    let (columns, importer) = import(&text);
    assert_eq!(
        events(&columns),
        [
            Event {
                op: Op::Store,
                addr: 0x1000,
                size: 8
            },
            Event {
                op: Op::Malloc,
                addr: 0x7fff_1234_5670,
                size: 24
            },
            Event {
                op: Op::Store,
                addr: 0x5010,
                size: 8
            },
            Event {
                op: Op::ReallocFrom,
                addr: 0x5010,
                size: 0
            },
            Event {
                op: Op::Realloc,
                addr: 0x6010,
                size: u32::MAX
            },
            Event {
                op: Op::Free,
                addr: 0x6010,
                size: 0
            },
            Event {
                op: Op::Load,
                addr: 0x1000,
                size: 8
            },
        ]
    );
    assert!(importer.heap_seen());
    let tally = importer.tally();
    assert_eq!((tally.mallocs, tally.reallocs, tally.frees), (1, 1, 1));
    assert_eq!(tally.allocator_accesses, 2);
}

#[test]
fn messages_of_valgrind_are_kept_apart() {
    let (columns, importer) = import("==12== Process terminating with SIGSEGV\n L 10,8\n\n");
    assert_eq!(columns.len(), 1);
    assert_eq!(importer.messages()[0], "==12== Process terminating with SIGSEGV");
}

#[test]
fn limit_counts_accesses_and_ends_the_events() {
    let mut importer = Importer::new(Some(3));
    importer.feed(b" L 10,8\n M 20,8\n").unwrap();
    assert!(importer.is_full());
    importer.feed(heap_lines(3, 0x5000, 8, 0).as_bytes()).unwrap();
    importer.feed(b" L 10,8\n").unwrap();
    assert_eq!(importer.drain().len(), 3);
    assert_eq!(importer.tally().mallocs, 0);
}

#[test]
fn an_unfinished_last_line_is_no_event() {
    let (columns, _) = import(" L 10,8\n L 20,");
    assert_eq!(columns.len(), 1);
}

#[test]
fn lines_that_are_not_lackey_output_are_errors_with_their_number() {
    for bad in [
        "hello",
        " L xyz,8",
        " L 10",
        " L 10,",
        " L 10,8x",
        " L ,8",
        " L 10,0",
        " L 10,99999",
        " L 10000000000000000000,8",
        " L ffffffffffffffff,8",
        " X 10,8",
        "L 10,8",
        " L  10,8",
    ] {
        let mut importer = Importer::new(None);
        let error = importer.feed(format!(" L 10,8\n{bad}\n").as_bytes()).unwrap_err();
        assert_eq!(
            error,
            LackeyError::Line {
                line: 2,
                text: bad.into()
            }
        );
    }
}

#[test]
fn unknown_heap_event_is_an_error() {
    let mut importer = Importer::new(None);
    let error = importer.feed(heap_lines(77, 0, 0, 0).as_bytes()).unwrap_err();
    assert_eq!(error, LackeyError::HeapEvent { line: 1, op: 77 });
}

proptest! {
    #[test]
    fn events_do_not_depend_on_where_the_text_is_cut(
        rows in prop::collection::vec((0_u8..5, 0_u64..WINDOW, 1_u32..=64), 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let text: String = rows.iter().map(|&(kind, addr, size)| match kind {
            0 => format!("I  {addr:08x},{size}\n"),
            1 => format!(" L {addr:08x},{size}\n"),
            2 => format!(" S {addr:08x},{size}\n"),
            3 => format!(" M {addr:08x},{size}\n"),
            _ => heap_lines(3, addr | 1, u64::from(size), 0),
        }).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let mut pieces = Importer::new(None);
        for pair in at.windows(2) {
            pieces.feed(&text.as_bytes()[pair[0]..pair[1]]).unwrap();
        }
        let (whole, importer) = import(&text);
        prop_assert_eq!(pieces.drain(), whole);
        prop_assert_eq!(pieces.tally(), importer.tally());
        prop_assert_eq!(pieces.pages(), importer.pages());
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut importer = Importer::new(None);
        let _ = importer.feed(&text);
    }
}
