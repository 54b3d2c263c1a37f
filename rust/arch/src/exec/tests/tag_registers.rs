//! `IRG`, `ADDG`, `SUBG`, `GMI`, `SUBP` and `SUBPS`: operands, of which some may be the stack pointer.

use super::*;
use crate::regs::{GcrEl1, RgsrEl1};

const POINTER: u64 = 0xa500_0000_5000_0040;

fn machine() -> Machine {
    let mut machine = Machine::new().with(&[(1, POINTER), (3, 0xffff_fffe)]);
    machine.core.sp[1] = 0x0300_0000_5000_0100;
    machine
}

#[test]
fn addg_and_subg_move_address_and_tag_of_registers_and_stack_pointer() {
    let mut machine = machine();

    machine.run(0x9180_0025, "addg x5, x1, #0, #0");
    assert_eq!(machine.core.x[5], POINTER);
    machine.run(0x91bf_3c25, "addg x5, x1, #1008, #15");
    assert_eq!(machine.core.x[5], 0xa400_0000_5000_0430);
    machine.run(0xd184_0425, "subg x5, x1, #64, #1");
    assert_eq!(machine.core.x[5], 0xa600_0000_5000_0000);
    machine.run(0x9182_07ff, "addg sp, sp, #32, #1");
    assert_eq!(machine.core.sp[1], 0x0400_0000_5000_0120);
    machine.run(0xd181_003f, "subg sp, x1, #16, #0");
    assert_eq!(machine.core.sp[1], 0xa500_0000_5000_0030);
}

#[test]
fn irg_takes_its_exclusions_from_gcr_and_the_mask_register() {
    let mut machine = machine();
    machine.core.cpu.gcr = GcrEl1::new().with_exclude(0xff00);
    machine.core.cpu.rgsr = RgsrEl1::new().with_seed(0xace1);
    machine.core.x[3] = 0xffdf;

    machine.run(0x9ac3_1025, "irg x5, x1, x3");
    assert_eq!(machine.core.x[5], 0xa500_0000_5000_0040, "5 is the only tag left");
    assert_ne!(machine.core.cpu.rgsr.seed(), 0xace1);
    machine.core.x[3] = 0xfffb;
    machine.run(0x9ac3_13ff, "irg sp, sp, x3");
    assert_eq!(machine.core.sp[1], 0x0200_0000_5000_0100);
    machine.core.cpu.gcr = GcrEl1::new().with_exclude(0xffbf);
    machine.run(0x9adf_1025, "irg x5, x1");
    assert_eq!(machine.core.x[5], 0xa600_0000_5000_0040, "without a mask register");
}

#[test]
fn gmi_sets_the_bit_of_the_tag() {
    let mut machine = machine();

    machine.run(0x9ac3_1425, "gmi x5, x1, x3");
    assert_eq!(machine.core.x[5], 0xffff_fffe | 1 << 5);
    machine.run(0x9adf_17e5, "gmi x5, sp, xzr");
    assert_eq!(machine.core.x[5], 1 << 3);
}

#[test]
fn subp_leaves_the_flags_and_subps_sets_them() {
    let mut machine = machine();
    machine.core.nzcv = 0b1010;

    machine.run(0x9adf_0025, "subp x5, x1, sp");
    assert_eq!(
        (machine.core.x[5], machine.core.nzcv),
        (0_u64.wrapping_sub(0xc0), 0b1010)
    );
    machine.run(0xbac1_03e5, "subps x5, sp, x1");
    assert_eq!((machine.core.x[5], machine.core.nzcv), (0xc0, 0b0010));
    machine.run(0xbadf_003f, "subps xzr, x1, sp");
    assert_eq!(machine.core.nzcv, 0b1000, "CMPP");
    machine.run(0xbac1_0025, "subps x5, x1, x1");
    assert_eq!((machine.core.x[5], machine.core.nzcv), (0, 0b0110));
}

#[test]
fn destination_31_is_the_zero_register_of_gmi_and_subp() {
    let mut machine = machine();
    let before = machine.core.clone();

    machine.run(0x9ac3_143f, "gmi xzr, x1, x3");
    machine.run(0x9adf_003f, "subp xzr, x1, sp");

    assert_eq!((machine.core.x, machine.core.sp), (before.x, before.sp));
}

#[test]
fn without_tag_access_irg_and_addg_give_tag_0_and_nothing_traps() {
    for el in 0..2 {
        let mut machine = machine().at_el(el);
        machine.change_sys(|sys| sys.hcr_el2.set_ata(false));

        machine.run(0x9ac3_1025, "irg x5, x1, x3");
        assert_eq!(machine.core.x[5], 0xa000_0000_5000_0040);
        machine.run(0x9181_0c25, "addg x5, x1, #16, #3");
        assert_eq!(machine.core.x[5], 0xa000_0000_5000_0050);
    }
}
