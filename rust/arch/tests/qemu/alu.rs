//! `IRG`, `ADDG`, `SUBG`, `GMI` and `SUBP` against recorded answers of QEMU 10.0.2.

use crate::rows::{Row, vectors};
use tagvisor_arch::{Cpu, GcrEl1, RgsrEl1, Tcf, Va, addg, gmi, irg, subg, subp};

fn cpu_of(row: &Row) -> Cpu {
    let el = row.num("el") as u8;
    let enabled = |key| row.num_or(key, || 1) != 0;
    let ata = match el {
        0 => enabled("ata0") && enabled("hcr_ata"),
        1 => enabled("ata") && enabled("hcr_ata"),
        _ => true,
    };
    Cpu {
        gcr: GcrEl1::from(row.num_or("gcr", || 0)),
        rgsr: RgsrEl1::from(row.num_or("rgsr", || 0)),
        tco: false,
        tcf: Tcf::None,
        tbi: true,
        ata,
        el,
    }
}

/// What tagvisor answers: x1, and every later result of a run.
fn answer(row: &Row, cpu: &mut Cpu) -> Vec<u64> {
    let (x0, x2) = (row.num("x0"), row.num_or("x2", || 0));
    match row.text("op") {
        "irg" => vec![irg(cpu, x0, x2)],
        "irg-run" => (0..row.num("n"))
            .map(|_| u64::from(Va(irg(cpu, x0, x2)).tag().get()))
            .collect(),
        "addg" => vec![addg(cpu, x0, row.num("imm"), row.num("tag_imm") as u8)],
        "subg" => vec![subg(cpu, x0, row.num("imm"), row.num("tag_imm") as u8)],
        "gmi" => vec![gmi(x0, x2)],
        "subp" | "subps" | "cmpp" => vec![subp(x0, x2)],
        other => panic!("unknown op {other}"),
    }
}

#[test]
fn register_forms_answer_as_recorded() {
    for row in vectors("alu.jsonl").iter().filter(|row| row.text("op") != "cmpp") {
        let mut cpu = cpu_of(row);

        let got = answer(row, &mut cpu);

        let want = if row.has("tags") {
            row.nums_of("tags")
        } else {
            vec![row.num("x1")]
        };
        assert_eq!(got, want, "{row}");
        let rgsr_out = row.num_or("rgsr_out", || u64::from(cpu.rgsr));
        assert_eq!(u64::from(cpu.rgsr), rgsr_out, "RGSR_EL1 after {row}");
    }
}
