//! The TLB against a list that is searched page by page.

use proptest::prelude::*;
use tagvisor_arch::{Ipa, PAGE_SIZE, Pa};

use super::*;

type Entry = TlbEntry<u8>;

/// Pages of the small address space that the list is searched in.
const PAGES: u64 = 16;

/// The TLB as a list, oldest first, of which every question looks at all pages of all entries.
#[derive(Default)]
struct List(Vec<Entry>);

impl List {
    fn pages(start: u64, bits: u32) -> std::ops::Range<u64> {
        let count = 1 << (bits - 12);
        let first = start / PAGE_SIZE / count * count;
        first..first + count
    }

    fn visible(entry: &Entry, context: Context) -> bool {
        match (entry.context.regime, context.regime) {
            (Regime::El2, Regime::El2) => true,
            (Regime::El10, Regime::El10) if entry.global => entry.context.vmid == context.vmid,
            (Regime::El10, Regime::El10) => entry.context == context,
            _ => false,
        }
    }

    fn fill(&mut self, entry: Entry, room: usize) {
        self.0.retain(|old| {
            let same = old.va == entry.va && old.bits == entry.bits && old.global == entry.global;
            !(same && Self::visible(old, entry.context))
        });
        if self.0.len() == room {
            self.0.remove(0);
        }
        self.0.push(entry);
    }

    fn lookup(&self, context: Context, va: Va) -> Option<&Entry> {
        let page = va.0 / PAGE_SIZE;
        let here =
            |entry: &&Entry| Self::pages(entry.va.0, entry.bits).contains(&page) && Self::visible(entry, context);
        let smallest = self.0.iter().filter(here).map(|entry| entry.bits).min()?;
        self.0.iter().filter(here).rfind(|entry| entry.bits == smallest)
    }

    fn invalidate(&mut self, operation: Tlbi) {
        self.0.retain(|entry| {
            let Context {
                regime,
                vmid: own_vmid,
                asid: own_asid,
            } = entry.context;
            let touches = |start: u64, bytes: u64, pages: std::ops::Range<u64>| {
                (0..PAGES).any(|page| (start..start + bytes).contains(&(page * PAGE_SIZE)) && pages.contains(&page))
            };
            let leaf = List::pages(entry.va.0, entry.stage1_bits.unwrap_or(entry.bits));
            let removed = match operation {
                Tlbi::Alle2 => regime == Regime::El2,
                Tlbi::Vae2 { va, bytes } => regime == Regime::El2 && touches(va.0, bytes, leaf),
                _ if regime == Regime::El2 => false,
                Tlbi::Alle1 => true,
                Tlbi::Vmalle1 { vmid } | Tlbi::Vmalls12e1 { vmid } => own_vmid == vmid,
                Tlbi::Aside1 { vmid, asid } => own_vmid == vmid && own_asid == asid && !entry.global,
                Tlbi::Vaae1 { vmid, va, bytes } => own_vmid == vmid && touches(va.0, bytes, leaf),
                Tlbi::Vae1 { vmid, asid, va, bytes } => {
                    own_vmid == vmid && touches(va.0, bytes, leaf) && (own_asid == asid || entry.global)
                }
                Tlbi::Ipas2e1 { vmid, ipa, bytes } => {
                    let ipas = List::pages(entry.ipa.0, entry.bits);
                    own_vmid == Some(vmid) && entry.stage1_bits.is_none() && touches(ipa.0, bytes, ipas)
                }
            };
            !removed
        });
    }
}

#[derive(Clone, Debug)]
enum Op {
    Fill(Entry),
    Invalidate(Tlbi),
}

fn vmid() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![3 => Just(Some(7)), 1 => Just(Some(8)), 1 => Just(None)]
}

fn context() -> impl Strategy<Value = Context> {
    let regime = prop_oneof![4 => Just(Regime::El10), 1 => Just(Regime::El2)];
    (regime, vmid(), 0u16..2).prop_map(|(regime, vmid, asid)| Context { regime, vmid, asid })
}

fn entry() -> impl Strategy<Value = Entry> {
    let bits = prop::sample::select(vec![12u32, 13, 14]);
    let place = (0..PAGES, bits, 0..PAGES, any::<Option<bool>>());
    (context(), any::<bool>(), place, any::<u8>()).prop_map(|(context, global, (page, bits, to, stage1), payload)| {
        let base = |page: u64| (page * PAGE_SIZE) >> bits << bits;
        TlbEntry {
            context,
            global,
            va: Va(base(page)),
            bits,
            stage1_bits: stage1.map(|splintered| if splintered { 15 } else { bits }),
            ipa: Ipa(base(to)),
            pa: Pa(base(to)),
            payload,
        }
    })
}

fn tlbi() -> impl Strategy<Value = Tlbi> {
    let addresses = || (0..PAGES, 1u64..4).prop_map(|(page, pages)| (Va(page * PAGE_SIZE), pages * PAGE_SIZE));
    prop_oneof![
        1 => vmid().prop_map(|vmid| Tlbi::Vmalle1 { vmid }),
        1 => vmid().prop_map(|vmid| Tlbi::Vmalls12e1 { vmid }),
        1 => Just(Tlbi::Alle1),
        1 => Just(Tlbi::Alle2),
        2 => (vmid(), 0u16..2).prop_map(|(vmid, asid)| Tlbi::Aside1 { vmid, asid }),
        4 => (vmid(), 0u16..2, addresses()).prop_map(|(vmid, asid, (va, bytes))| Tlbi::Vae1 { vmid, asid, va, bytes }),
        4 => (vmid(), addresses()).prop_map(|(vmid, (va, bytes))| Tlbi::Vaae1 { vmid, va, bytes }),
        2 => addresses().prop_map(|(va, bytes)| Tlbi::Vae2 { va, bytes }),
        4 => addresses().prop_map(|(va, bytes)| Tlbi::Ipas2e1 { vmid: 7, ipa: Ipa(va.0), bytes }),
    ]
}

proptest! {
    #[test]
    fn one_set_answers_like_a_list_of_four(
        ops in prop::collection::vec(prop_oneof![4 => entry().prop_map(Op::Fill), 1 => tlbi().prop_map(Op::Invalidate)], 0..40),
        contexts in prop::collection::vec(context(), 4),
    ) {
        let (mut tlb, mut list) = (Tlb::new(0), List::default());

        for op in ops {
            match op {
                Op::Fill(entry) => {
                    tlb.fill(entry);
                    list.fill(entry, WAYS);
                }
                Op::Invalidate(operation) => {
                    tlb.invalidate(operation);
                    list.invalidate(operation);
                }
            }
            for &context in &contexts {
                for va in (0..PAGES).map(|page| Va(page * PAGE_SIZE)) {
                    prop_assert_eq!(tlb.lookup(context, va), list.lookup(context, va));
                }
            }
        }
    }

    #[test]
    fn many_sets_never_answer_with_what_was_removed(
        ops in prop::collection::vec(prop_oneof![6 => entry().prop_map(Op::Fill), 1 => tlbi().prop_map(Op::Invalidate)], 0..80),
        context in context(),
    ) {
        let (mut tlb, mut list) = (Tlb::new(2), List::default());

        for op in ops {
            match op {
                Op::Fill(entry) => {
                    tlb.fill(entry);
                    list.fill(entry, usize::MAX);
                    prop_assert!(tlb.overlapping(entry.context, entry.va, 1).any(|found| *found == entry));
                }
                Op::Invalidate(operation) => {
                    tlb.invalidate(operation);
                    list.invalidate(operation);
                }
            }
            for va in (0..PAGES).map(|page| Va(page * PAGE_SIZE)) {
                prop_assert!(tlb.lookup(context, va).is_none_or(|found| list.0.contains(found)));
            }
        }
    }
}
