//! Instructions by their words, on a guest of a few pages.
//!
//! Words stand beside their assembly, which names a test's failure. Where an instruction's semantics have tests of their own
//! in `insn`, what counts here is that the word reaches them with the right registers, sizes and addresses.

mod atomics;
mod exclusives;
mod hostile;
mod loads;
mod pairs;
mod stores;
mod syndromes;
mod sysregs;
mod system;
mod tag_memory;
mod tag_registers;
mod traps;

use super::{Core, Effect, Stop};
use crate::addr::PAGE_SIZE;
use crate::exception::Exception;
use crate::fault::{Fault, FaultKind};
use crate::features::Features;
use crate::insn::test_guest::Page::{self, Tagged};
use crate::insn::test_guest::{BASE, Guest, pointer};
use crate::regs::{HcrEl2, SctlrEl1, SysRegs, TcrEl1, TcrEl2};
use crate::tag::Tag;

/// Where X2 points: into the first page, aligned to 64, with tag 0.
const AT: u64 = BASE + 0x40;

/// A processing element and its guest.
#[derive(Clone)]
struct Machine {
    core: Core,
    guest: Guest,
}

/// Synchronous tag checks, tag access and top-byte-ignore at every level.
fn checked() -> SysRegs {
    SysRegs {
        sctlr_el1: SctlrEl1::new().with_ata(true).with_ata0(true).with_tcf(1).with_tcf0(1),
        tcr_el1: TcrEl1::new().with_tbi0(true).with_tbi1(true),
        hcr_el2: HcrEl2::new().with_ata(true),
        sctlr_el2: SctlrEl1::new().with_ata(true).with_tcf(1),
        tcr_el2: TcrEl2::new().with_tbi(true),
        ..SysRegs::default()
    }
}

impl Machine {
    /// At EL1 with X2 at [`AT`], on two Tagged pages of tag 0.
    ///
    /// The byte at offset `n` of the first page is `n + 0x80`, so the first 128 have their sign bit set and the next 128 clear.
    fn new() -> Self {
        Self::with_pages(&[Tagged, Tagged])
    }

    fn with_pages(pages: &[Page]) -> Self {
        let mut guest = Guest::new(pages);
        let first_page = guest.data.iter_mut().take(PAGE_SIZE as usize);
        for (offset, byte) in first_page.enumerate() {
            *byte = (offset as u8).wrapping_add(0x80);
        }
        let mut core = Core::new(Features::empty(), 1);
        core.set_sys(checked());
        core.pc = BASE;
        core.x[2] = AT;
        Self { core, guest }
    }

    /// Its registers set, for the middle of an expression.
    fn with(mut self, registers: &[(usize, u64)]) -> Self {
        for &(number, value) in registers {
            self.core.x[number] = value;
        }
        self
    }

    fn at_el(mut self, el: u8) -> Self {
        self.core.cpu.el = el;
        self
    }

    fn change_sys(&mut self, change: impl FnOnce(&mut SysRegs)) {
        let mut sys = *self.core.sys();
        change(&mut sys);
        self.core.set_sys(sys);
    }

    fn try_run(&mut self, word: u32) -> Result<Effect, Stop> {
        self.core.execute(&mut self.guest, word)
    }

    /// Executes an instruction that completes without an effect on the machine around.
    #[track_caller]
    fn run(&mut self, word: u32, asm: &str) {
        let pc = self.core.pc;
        assert_eq!(self.try_run(word), Ok(Effect::None), "{asm}");
        assert_eq!(self.core.pc, pc + 4, "{asm} moves PC on");
    }

    /// Executes an instruction that stops, and checks that nothing changed.
    #[track_caller]
    fn stop(&mut self, word: u32, asm: &str) -> Stop {
        let before = self.clone();
        let stop = self.try_run(word).expect_err(asm);
        assert_eq!(self.core, before.core, "{asm} changed a register");
        assert!(self.guest == before.guest, "{asm} changed memory");
        stop
    }

    /// Executes an instruction that takes an exception, and checks that nothing changed.
    #[track_caller]
    fn exception(&mut self, word: u32, asm: &str) -> Exception {
        match self.stop(word, asm) {
            Stop::Exception(exception) => exception,
            Stop::NotModelled => panic!("{asm} is not modelled"),
        }
    }

    /// Executes an instruction that takes an abort, and checks that nothing changed.
    #[track_caller]
    fn fault(&mut self, word: u32, asm: &str) -> Fault {
        match self.exception(word, asm) {
            Exception::Fault(fault) => fault,
            other => panic!("{asm}: {other}"),
        }
    }

    /// The bytes at an offset from [`AT`].
    fn bytes(&self, offset: i64, count: usize) -> &[u8] {
        let start = (AT - BASE).checked_add_signed(offset).expect("an offset in the page") as usize;
        &self.guest.data[start..start + count]
    }

    /// The tags of the first granules of the first page, as digits.
    fn digits(&self, count: usize) -> String {
        self.guest.tags[0]
            .iter()
            .take(count)
            .map(|tag| tag.to_string())
            .collect()
    }
}
