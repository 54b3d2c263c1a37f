//! What a stage-2 fault says of the instruction: ISV, SAS, SSE, SRT, SF and AR (`LSInstructionSyndrome`).

use super::*;

/// Word, assembly, and `ESR_EL2` of a translation fault of level 3, worked out by hand.
///
/// `0x9200_0007` is EC 0x24, IL and the fault; ISV is bit 24, SAS 23:22, SSE 21, SRT 20:16, SF 15, AR 14 and `WnR` 6.
const DESCRIBED: [(u32, &str, u64); 30] = [
    (0x3940_0045, "ldrb w5, [x2]", 0x9305_0007),
    (0x39c0_0045, "ldrsb w5, [x2]", 0x9325_0007),
    (0x3980_0045, "ldrsb x5, [x2]", 0x9325_8007),
    (0x7940_0045, "ldrh w5, [x2]", 0x9345_0007),
    (0x79c0_0045, "ldrsh w5, [x2]", 0x9365_0007),
    (0x7980_0045, "ldrsh x5, [x2]", 0x9365_8007),
    (0xb940_0045, "ldr w5, [x2]", 0x9385_0007),
    (0xb980_0045, "ldrsw x5, [x2]", 0x93a5_8007),
    (0xf940_0045, "ldr x5, [x2]", 0x93c5_8007),
    (0xf940_045f, "ldr xzr, [x2, #8]", 0x93df_8007),
    (0xf85f_f045, "ldur x5, [x2, #-1]", 0x93c5_8007),
    (0xf863_7845, "ldr x5, [x2, x3, lsl #3]", 0x93c5_8007),
    (0xb840_0845, "ldtr w5, [x2]", 0x9385_0007),
    (0x1800_0045, "ldr w5, . + 8", 0x9385_0007),
    (0x9800_0045, "ldrsw x5, . + 8", 0x93a5_8007),
    (0x3900_0045, "strb w5, [x2]", 0x9305_0047),
    (0x7900_0045, "strh w5, [x2]", 0x9345_0047),
    (0xb900_0045, "str w5, [x2]", 0x9385_0047),
    (0xf900_0045, "str x5, [x2]", 0x93c5_8047),
    (0xf800_0845, "sttr x5, [x2]", 0x93c5_8047),
    (0xf823_485e, "str x30, [x2, w3, uxtw]", 0x93de_8047),
    (0xc8df_fc45, "ldar x5, [x2]", 0x93c5_c007),
    (0x08df_fc45, "ldarb w5, [x2]", 0x9305_4007),
    (0x889f_fc45, "stlr w5, [x2]", 0x9385_4047),
    (0x489f_fc45, "stlrh w5, [x2]", 0x9345_4047),
    (0xf8bf_c045, "ldapr x5, [x2]", 0x93c5_c007),
    (0x38bf_c045, "ldaprb w5, [x2]", 0x9305_4007),
    (0x1980_0045, "ldapursb x5, [x2]", 0x9325_c007),
    (0x9940_4045, "ldapur w5, [x2, #4]", 0x9385_4007),
    (0xd900_8045, "stlur x5, [x2, #8]", 0x93c5_c047),
];

#[test]
fn single_register_accesses_without_writeback_are_described() {
    for (word, asm, esr) in DESCRIBED {
        let fault = Machine::with_pages(&[]).fault(word, asm);

        assert_eq!(fault.esr(1), esr, "{asm}: {:#x}", fault.esr(1));
        assert_eq!(fault.esr(0), esr, "{asm} at EL0");
    }
}

#[test]
fn everything_else_is_not_described() {
    for (word, asm, esr) in [
        (0xf840_8445, "ldr x5, [x2], #8", 0x9200_0007_u64),
        (0xf840_8c45, "ldr x5, [x2, #8]!", 0x9200_0007),
        (0xb800_8445, "str w5, [x2], #8", 0x9200_0047),
        (0xa940_1845, "ldp x5, x6, [x2]", 0x9200_0007),
        (0x6940_1845, "ldpsw x5, x6, [x2]", 0x9200_0007),
        (0x2900_1845, "stp w5, w6, [x2]", 0x9200_0047),
        (0xfd40_0045, "ldr d5, [x2]", 0x9200_0007),
        (0x3d80_0045, "str q5, [x2]", 0x9200_0047),
        (0x9c00_0045, "ldr q5, . + 8", 0x9200_0007),
        (0xc85f_7c45, "ldxr x5, [x2]", 0x9200_0007),
        (0xc87f_9845, "ldaxp x5, x6, [x2]", 0x9200_0007),
        (0xf825_0046, "ldadd x5, x6, [x2]", 0x9200_0007),
        (0xc8a5_7c46, "cas x5, x6, [x2]", 0x9200_0007),
        (0x4824_7c46, "casp x4, x5, x6, x7, [x2]", 0x9200_0007),
        (0xd960_0045, "ldg x5, [x2]", 0x9200_0007),
        (0xd920_0845, "stg x5, [x2]", 0x9200_0047),
        (0x6900_1845, "stgp x5, x6, [x2]", 0x9200_0047),
        (0xd9e0_0045, "ldgm x5, [x2]", 0x9200_0007),
        (0xd920_0045, "stzgm x5, [x2]", 0x9200_0047),
        (0xd50b_7422, "dc zva, x2", 0x9200_0047),
        (0xd50b_7482, "dc gzva, x2", 0x9200_0047),
    ] {
        let fault = Machine::with_pages(&[]).fault(word, asm);

        assert_eq!(fault.esr(1), esr, "{asm}: {:#x}", fault.esr(1));
    }
}

#[test]
fn size_of_the_whole_instruction_is_reported_with_the_fault() {
    let size = |(word, asm): (u32, &str)| Machine::with_pages(&[]).fault(word, asm).size;

    assert_eq!(size((0x3940_0045, "ldrb w5, [x2]")), 1);
    assert_eq!(size((0x2940_1845, "ldp w5, w6, [x2]")), 8);
    assert_eq!(size((0xc87f_1845, "ldxp x5, x6, [x2]")), 16);
    assert_eq!(size((0xad40_1845, "ldp q5, q6, [x2]")), 32);
    assert_eq!(size((0x4824_7c46, "casp x4, x5, x6, x7, [x2]")), 16);
    assert_eq!(size((0xd9a0_0845, "st2g x5, [x2]")), 32);
    assert_eq!(size((0xd50b_7422, "dc zva, x2")), 64);
}
