//! Random operations on a guest's memory that may lie on a huge page, against a table of tags and data.
//!
//! As in `random.rs`, nothing the host does may be seen: not a collapse, not a split, not a merge or a move. Tails of a
//! split keep their own flags here (`split_flags = own`), for what every kernel does instead loses tags (rows N01 to N05 of
//! the catalogue), which the second test expects to be found.

use proptest::prelude::*;
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Advice, Config, CopyTags, Errno, GuestOp, Prot, SwapKind};

use crate::common::{Guest, IPA, RW, config, guest, policy};

const HPAGE: u64 = 512;
/// Pages that are looked at: the first of the huge page, two neighbours, the last.
const PAGES: [u64; 4] = [0, 5, 6, 511];

#[derive(Clone, Copy, Debug)]
enum Action {
    Stg(usize, u8),
    Ldg(usize),
    Store(usize, u8),
    HostStore(usize, u8),
    HostLoad(usize),
    Evict(usize),
    DontNeed(usize),
    DontNeedAll,
    ProtMte(usize, bool),
    CopyTo(usize, u8),
    Migrate(usize),
    SoftOffline(usize),
    Merge,
    Collapse,
    Hugepages(bool),
    Log(bool),
}

fn action() -> impl Strategy<Value = Action> {
    let page = || 0..PAGES.len();
    prop_oneof![
        4 => (page(), 0..16_u8).prop_map(|(page, tag)| Action::Stg(page, tag)),
        4 => page().prop_map(Action::Ldg),
        2 => (page(), any::<u8>()).prop_map(|(page, value)| Action::Store(page, value)),
        2 => (page(), any::<u8>()).prop_map(|(page, value)| Action::HostStore(page, value)),
        2 => page().prop_map(Action::HostLoad),
        3 => page().prop_map(Action::Evict),
        1 => page().prop_map(Action::DontNeed),
        1 => Just(Action::DontNeedAll),
        1 => (page(), any::<bool>()).prop_map(|(page, on)| Action::ProtMte(page, on)),
        1 => (page(), 0..16_u8).prop_map(|(page, tag)| Action::CopyTo(page, tag)),
        1 => page().prop_map(Action::Migrate),
        1 => page().prop_map(Action::SoftOffline),
        1 => Just(Action::Merge),
        2 => Just(Action::Collapse),
        1 => any::<bool>().prop_map(Action::Hugepages),
        1 => any::<bool>().prop_map(Action::Log),
    ]
}

/// One tag and one byte a page.
#[derive(Clone, Copy, Default)]
struct Model {
    tags: [u8; PAGES.len()],
    data: [u8; PAGES.len()],
}

struct Bench {
    g: Guest,
    first: u64,
}

impl Bench {
    fn new(knobs: &[(&str, &str)], kernel: &str, first: u64, swap_kind: SwapKind) -> Self {
        let config = Config {
            swap_kind,
            memory: 32 << 20,
            swap: 8 << 20,
            log: false,
            ..config(policy(kernel, knobs))
        };
        let mut g = guest(&config, HPAGE);
        assert_eq!(
            g.ram.0 % (HPAGE * PAGE_SIZE),
            0,
            "the first mapping of a process is aligned"
        );
        g.machine.set_transparent_hugepage(true, true);
        g.machine.madvise(g.vmm, g.ram, HPAGE, Advice::Hugepage).unwrap();
        let mut bench = Self { g, first };
        bench.slot(false);
        bench
    }

    /// The slot begins with the huge page, so that a block maps it, or inside it.
    fn slot(&mut self, log: bool) {
        let id = 1;
        self.g.slot(id, IPA, self.g.ram, 0).unwrap();
        let args = tagvisor_host::SlotArgs {
            id,
            ipa: tagvisor_arch::Ipa(IPA + self.first * PAGE_SIZE),
            userspace_addr: self.g.page(self.first),
            pages: HPAGE - self.first,
            flags: if log { tagvisor_host::SLOT_DIRTY_LOG } else { 0 },
        };
        self.g.machine.set_user_memory_region(self.g.vm, args).unwrap();
    }

    fn in_slot(&self, page: usize) -> bool {
        PAGES[page] >= self.first
    }

    fn act(&mut self, action: Action) -> Option<u64> {
        let at = |page: usize| PAGES[page] * PAGE_SIZE;
        let (vmm, ram, cpu) = (self.g.vmm, self.g.ram, self.g.cpu);
        let m = &mut self.g.machine;
        match action {
            Action::Stg(page, tag) => {
                let (ptr, tag) = (Va(IPA + at(page)), Tag::new(tag));
                m.guest(cpu, GuestOp::Stg { ptr, tag }).unwrap();
            }
            Action::Ldg(page) => {
                let ptr = Va(IPA + at(page));
                return Some(m.guest(cpu, GuestOp::Ldg { ptr }).unwrap());
            }
            Action::Store(page, value) => {
                m.set_tco(cpu, true);
                let (ptr, size, value) = (Va(IPA + at(page)), 1, value.into());
                m.guest(cpu, GuestOp::Store { ptr, size, value }).unwrap();
                m.set_tco(cpu, false);
            }
            Action::HostStore(page, value) => {
                let tag = m.user_ldg(vmm, ram + at(page)).unwrap();
                m.user_store(vmm, (ram + at(page)).with_tag(tag), 1, value.into())
                    .unwrap();
            }
            Action::HostLoad(page) => {
                let tag = m.user_ldg(vmm, ram + at(page)).unwrap();
                return Some(m.user_load(vmm, (ram + at(page)).with_tag(tag), 1).unwrap());
            }
            Action::Evict(page) => drop(m.evict(vmm, ram + at(page)).unwrap()),
            Action::DontNeed(page) => m.madvise(vmm, ram + at(page), 1, Advice::Dontneed).unwrap(),
            Action::DontNeedAll => m.madvise(vmm, ram, HPAGE, Advice::Dontneed).unwrap(),
            Action::ProtMte(page, on) => {
                let prot = if on { RW | Prot::MTE } else { RW };
                m.mprotect(vmm, ram + at(page), 1, prot).unwrap();
            }
            Action::CopyTo(page, tag) => {
                let args = CopyTags {
                    ipa: IPA + at(page),
                    length: PAGE_SIZE,
                    flags: 0,
                    reserved: [0; 2],
                };
                let copied = m.mte_copy_tags(self.g.vm, args, &mut [tag; 256]);
                assert_eq!(copied, Ok(PAGE_SIZE));
            }
            Action::Migrate(page) => {
                let moved = m.migrate_page(vmm, ram + at(page));
                let fit = matches!(moved, Ok(()) | Err(Errno::Enoent | Errno::Efault | Errno::Eagain));
                assert!(fit, "{moved:?}");
            }
            Action::SoftOffline(page) => {
                let done = m.madvise(vmm, ram + at(page), 1, Advice::SoftOffline);
                assert!(
                    matches!(done, Ok(()) | Err(Errno::Eio | Errno::Enotrecoverable | Errno::Ebusy)),
                    "{done:?}"
                );
            }
            Action::Merge => {
                m.madvise(vmm, ram + at(1), 2, Advice::Mergeable).unwrap();
                m.ksm_run();
                m.madvise(vmm, ram + at(2), 1, Advice::Unmergeable).unwrap();
            }
            Action::Collapse => {
                let done = m.madvise(vmm, ram, HPAGE, Advice::Collapse);
                let fit = matches!(done, Ok(()) | Err(Errno::Einval | Errno::Eagain | Errno::Enomem));
                assert!(fit, "{done:?}");
            }
            Action::Hugepages(on) => {
                let advice = if on { Advice::Hugepage } else { Advice::Nohugepage };
                m.madvise(vmm, ram, HPAGE, advice).unwrap();
            }
            Action::Log(on) => self.slot(on),
        }
        None
    }

    /// The same on the model; `None` twice where the slot does not have the page, or the kernel refuses.
    fn expect(model: &mut Model, action: Action) -> Option<u64> {
        match action {
            Action::Stg(page, tag) | Action::CopyTo(page, tag) => model.tags[page] = tag,
            Action::Ldg(page) => return Some(model.tags[page].into()),
            Action::Store(page, value) | Action::HostStore(page, value) => model.data[page] = value,
            Action::HostLoad(page) => return Some(model.data[page].into()),
            Action::DontNeed(page) => (model.tags[page], model.data[page]) = (0, 0),
            Action::DontNeedAll => *model = Model::default(),
            _ => {}
        }
        None
    }

    /// Can the action be done now?
    fn possible(&self, action: Action, logging: bool) -> bool {
        match action {
            Action::Stg(page, _) | Action::Ldg(page) | Action::Store(page, _) => self.in_slot(page),
            Action::CopyTo(page, _) => self.in_slot(page) && !logging,
            _ => true,
        }
    }

    /// Runs the actions; the first that was answered wrongly.
    fn run(&mut self, actions: &[Action]) -> Result<(), String> {
        let (mut model, mut logging) = (Model::default(), false);
        for (n, action) in actions.iter().enumerate() {
            if !self.possible(*action, logging) {
                continue;
            }
            if let Action::Log(on) = *action {
                logging = on;
            }
            let (got, want) = (self.act(*action), Self::expect(&mut model, *action));
            // The first granule is stored over with its own tag, so that a page's tag is one.
            if got != want {
                return Err(format!("action {n}: {action:?} answers {got:?}, not {want:?}"));
            }
        }
        self.g.machine.check().map_err(|violation| violation.summary)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_done_with_huge_pages_the_guest_sees_its_own_memory(
        actions in proptest::collection::vec(action(), 1..50),
        first in prop_oneof![Just(0_u64), Just(5)],
        zram in any::<bool>(),
        kernel in prop_oneof![Just("linux-6.6"), Just("linux-6.12"), Just("linux-7.3")],
    ) {
        let swap_kind = if zram { SwapKind::Zram } else { SwapKind::Nvme };
        let mut bench = Bench::new(&[("split_flags", "own")], kernel, first, swap_kind);
        prop_assert_eq!(bench.run(&actions), Ok(()), "{}", kernel);
    }
}

#[test]
fn the_same_actions_find_what_a_split_does_to_flags() {
    let actions = [
        Action::HostStore(0, 1),
        Action::HostStore(2, 1),
        Action::CopyTo(2, 5),
        Action::Evict(1),
        Action::Ldg(2),
    ];
    let mut real = Bench::new(&[], "linux-7.3", 0, SwapKind::Nvme);
    assert!(real.run(&actions).unwrap_err().contains("answers Some(0), not Some(5)"));
}
