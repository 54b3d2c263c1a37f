//! Sequences of tag instructions and checked accesses under stage 2 against recorded runs of QEMU 10.0.2: every outcome
//! with its syndrome, then all tags and data. Stage-2 tables are real and go through the walker.
//!
//! Asynchronous and asymmetric modes are not modelled, but what they do to memory is: an access that would only set
//! `TFSR_EL1` completes. TCMA likewise stands for "not checked".

use crate::rows::{Row, vectors};
use tagvisor_arch::{
    Access, Cpu, DescriptorSource, Esr, Fault, FaultKind, GcrEl1, Ipa, MemAttr, Mmu, PAGE_SIZE, Pa, PageTags, RgsrEl1,
    S2Attrs, Stage, Stage2, Tag, Tcf, Translation, Va, VtcrEl2, VttbrEl2, check_s2_permission, dc_gva, dc_gzva, dc_zva,
    ldg, ldgm, leaf_desc, load, st2g, stg, stgm, stgp, store, stz2g, stzg, stzgm, table_desc, walk_stage2,
};

const IPA_BASE: u64 = 0x4100_0000;
const PA_BASE: u64 = 0x5100_0000;
const PAGES: usize = 4;
const TABLES: u64 = 0x4800_0000;
const PAGE: usize = PAGE_SIZE as usize;

/// Four pages of guest memory and the tables that map them.
struct Guest {
    tables: Vec<u64>,
    regime: Stage2,
    tags: [PageTags; PAGES],
    data: Vec<u8>,
}

/// What an instruction did to the registers, as far as it is recorded.
#[derive(Debug, PartialEq, Eq, Default)]
struct Loaded {
    x1: Option<u64>,
    x2: Option<u64>,
}

impl Guest {
    fn new(start: &Row) -> Self {
        let (l1, l2, l3) = (Pa(TABLES), Pa(TABLES + 2 * PAGE_SIZE), Pa(TABLES + 3 * PAGE_SIZE));
        let mut guest = Self {
            tables: vec![0; 4 * PAGE / 8],
            regime: Stage2 {
                vtcr: VtcrEl2::new().with_t0sz(24).with_sl0(1).with_ps(2),
                vttbr: VttbrEl2::for_table(l1, 0),
            },
            tags: [PageTags::ZERO; PAGES],
            data: vec![0; PAGES * PAGE],
        };
        guest.put(l1 + 8 * (IPA_BASE >> 30), table_desc(l2));
        guest.put(l2 + 8 * (IPA_BASE >> 21 & 511), table_desc(l3));
        for (index, page) in (0u64..).zip(start.rows("pages")) {
            if page.num("valid") != 0 {
                let attrs = S2Attrs {
                    mem: MemAttr::from_bits(page.num("memattr") as u8),
                    read: page.num("s2ap") & 1 != 0,
                    write: page.num("s2ap") & 2 != 0,
                    exec: true,
                    af: page.num("af") != 0,
                };
                guest.put(l3 + 8 * index, leaf_desc(3, Pa(PA_BASE + index * PAGE_SIZE), attrs));
            }
        }
        for (granule, digit) in start.text("tags").chars().enumerate() {
            let tag = Tag::new(digit.to_digit(16).expect("a hex digit") as u8);
            guest.tags[granule / 256].set(granule % 256, tag);
        }
        guest
    }

    fn put(&mut self, at: Pa, desc: u64) {
        self.tables[((at.0 - TABLES) / 8) as usize] = desc;
    }

    fn tag_digits(&self) -> String {
        self.tags
            .iter()
            .flat_map(PageTags::iter)
            .map(|tag| tag.to_string())
            .collect()
    }

    fn data_digits(&self) -> String {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble");
        let digits = self.data.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]);
        digits.collect()
    }

    /// Runs one instruction.
    fn execute(&mut self, cpu: &Cpu, instruction: &str, x: &[u64]) -> Result<Loaded, Fault> {
        let operand = |index: usize| x.get(index).copied().unwrap_or(0);
        let (ptr, x1, x2) = (Va(operand(0)), operand(1), operand(2));
        let register = |value: u128| Loaded {
            x1: Some(value as u64),
            x2: None,
        };
        let nothing = |()| Loaded::default();
        match instruction {
            "ldrb w1,[x0]" => load(cpu, self, ptr, 1).map(register),
            "ldrh w1,[x0]" => load(cpu, self, ptr, 2).map(register),
            "ldr w1,[x0]" => load(cpu, self, ptr, 4).map(register),
            "ldr x1,[x0]" | "ldtr x1,[x0]" | "ldar x1,[x0]" | "ldxr x1,[x0]" => load(cpu, self, ptr, 8).map(register),
            "ldp x1,x2,[x0]" => load(cpu, self, ptr, 16).map(|pair| Loaded {
                x1: Some(pair as u64),
                x2: Some((pair >> 64) as u64),
            }),
            "strb w1,[x0]" => store(cpu, self, ptr, 1, x1.into()).map(nothing),
            "strh w1,[x0]" => store(cpu, self, ptr, 2, x1.into()).map(nothing),
            "str w1,[x0]" => store(cpu, self, ptr, 4, x1.into()).map(nothing),
            "str x1,[x0]" | "sttr x1,[x0]" | "stlr x1,[x0]" => store(cpu, self, ptr, 8, x1.into()).map(nothing),
            "stp x1,x2,[x0]" => store(cpu, self, ptr, 16, u128::from(x2) << 64 | u128::from(x1)).map(nothing),
            "ldg x1,[x0]" => ldg(cpu, self, ptr).map(|tag| register(Va(x1).with_tag(tag).0.into())),
            "ldgm x1,[x0]" => ldgm(cpu, self, ptr).map(|bits| register(bits.into())),
            "stg x1,[x0]" => stg(cpu, self, ptr, Va(x1).tag()).map(nothing),
            "st2g x1,[x0]" => st2g(cpu, self, ptr, Va(x1).tag()).map(nothing),
            "stzg x1,[x0]" => stzg(cpu, self, ptr, Va(x1).tag()).map(nothing),
            "stz2g x1,[x0]" => stz2g(cpu, self, ptr, Va(x1).tag()).map(nothing),
            "stgp x1,x2,[x0]" => stgp(cpu, self, ptr, x1, x2).map(nothing),
            "stgm x1,[x0]" => stgm(cpu, self, ptr, x1).map(nothing),
            "stzgm x1,[x0]" => stzgm(cpu, self, ptr, Tag::new(x1 as u8)).map(nothing),
            "dc gva,x0" => dc_gva(cpu, self, ptr, ptr.tag()).map(nothing),
            "dc gzva,x0" => dc_gzva(cpu, self, ptr, ptr.tag()).map(nothing),
            "dc zva,x0" => dc_zva(cpu, self, ptr).map(nothing),
            "prfm pldl1keep,[x0]" => Ok(Loaded::default()),
            other => panic!("unknown instruction {other}"),
        }
    }
}

impl DescriptorSource for Guest {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        let word = pa.0.checked_sub(TABLES)? / 8;
        self.tables.get(word as usize).copied()
    }
}

impl Mmu for Guest {
    fn translate(&mut self, va: Va, access: Access, isv: bool, size: u8) -> Result<Translation, Fault> {
        let ipa = Ipa(va.untagged().0);
        let regime = self.regime;
        let walk = walk_stage2(self, &regime, ipa)
            .and_then(|walk| check_s2_permission(&walk, access).map(|()| walk))
            .map_err(|fault| Fault {
                kind: fault.kind,
                stage: Stage::Two,
                level: fault.level,
                access,
                va,
                ipa,
                isv,
                size,
            })?;
        let mem = walk.attrs.mem;
        Ok(Translation {
            pa: walk.pa,
            tagged: mem == MemAttr::NormalWb,
            device: mem.is_device(),
        })
    }

    fn read(&mut self, pa: Pa, buf: &mut [u8]) {
        let at = (pa.0 - PA_BASE) as usize;
        buf.copy_from_slice(&self.data[at..at + buf.len()]);
    }

    fn write(&mut self, pa: Pa, buf: &[u8]) {
        let at = (pa.0 - PA_BASE) as usize;
        self.data[at..at + buf.len()].copy_from_slice(buf);
    }

    fn tag(&mut self, pa: Pa) -> Tag {
        self.tags[(pa.0 - PA_BASE) as usize / PAGE].get(pa.granule())
    }

    fn set_tag(&mut self, pa: Pa, tag: Tag) {
        self.tags[(pa.0 - PA_BASE) as usize / PAGE].set(pa.granule(), tag);
    }
}

/// The processor state of one step under the configuration in force.
fn cpu_for(step: &Row, cfg: &Row) -> Cpu {
    let el = step.num("el") as u8;
    let instruction = step.text("ins");
    // LDTR and STTR are checked with the controls of EL0.
    let as_el0 = el == 0 || instruction.starts_with("ldtr") || instruction.starts_with("sttr");
    let (tcf, ata) = if as_el0 { ("tcf0", "ata0") } else { ("tcf", "ata") };
    let asymmetric_load = cfg.num(tcf) == 3 && instruction.starts_with("ld");
    let unchecked_by_tcma = cfg.num("tcma") != 0 && Va(step.nums_of("x")[0]).tag() == Tag::ZERO;
    Cpu {
        gcr: GcrEl1::new(),
        rgsr: RgsrEl1::new(),
        tco: step.num_or("tco", || 0) != 0 || unchecked_by_tcma,
        tcf: if cfg.num(tcf) == 1 || asymmetric_load {
            Tcf::Sync
        } else {
            Tcf::None
        },
        tbi: cfg.num("tbi") != 0,
        ata: cfg.num(ata) != 0 && cfg.num("hcr_ata") != 0,
        el,
    }
}

/// The syndrome without which register was moved and how (SSE, SRT, AR), which is not modelled. Exclusives, not modelled
/// either, stand in as plain loads, which the syndrome would describe (ISV, SAS, SF).
fn modelled(esr: u64, step: &Row) -> u64 {
    let exclusive = step.text("ins").starts_with("ldx");
    let described = if exclusive { 1 << 24 | 0b11 << 22 | 1 << 15 } else { 0 };
    esr & !(1 << 21 | 0x1f << 16 | 1 << 14 | described)
}

/// Compares a fault with the recorded exception.
fn assert_fault(fault: &Fault, step: &Row) {
    let taken_to = if fault.stage == Stage::One { 1 } else { 2 };
    assert_eq!(taken_to, step.num("st"), "exception level for {fault} in {step}");
    let (got, want) = (fault.esr(step.num("el") as u8), step.num("esr"));
    if step.has("quirk") {
        let class = |esr: u64| (Esr::from(esr).ec(), Esr::from(esr).dfsc());
        assert_eq!(class(got), class(want), "{fault} in {step}");
        return;
    }
    assert_eq!(
        modelled(got, step),
        modelled(want, step),
        "ESR {got:#x} for {fault} in {step}"
    );
    assert_eq!(fault.far(), step.num("far"), "FAR for {fault} in {step}");
    assert_eq!(fault.hpfar(), step.num_or("hpfar", || 0), "HPFAR for {fault} in {step}");
}

fn run_step(guest: &mut Guest, cfg: &Row, step: &Row) {
    let undefined = step.num("st") == 1 && Esr::from(step.num("esr")).ec() == 0;
    if undefined {
        return; // LDGM, STGM, STZGM at EL0: the decoder's business
    }
    match guest.execute(&cpu_for(step, cfg), step.text("ins"), &step.nums_of("x")) {
        Err(fault) => assert_fault(&fault, step),
        Ok(loaded) => {
            assert_eq!(step.num("st"), 0, "completed: {step}");
            assert_eq!(loaded.x1.unwrap_or(0), step.num_or("x1", || 0), "x1 of {step}");
            assert_eq!(loaded.x2.unwrap_or(0), step.num_or("x2", || 0), "x2 of {step}");
        }
    }
}

fn run_sequences(name: &str) {
    let rows = vectors(name);
    let mut guest = None;
    let mut cfg = None;
    for row in &rows {
        if row.has("seq") {
            guest = Some(Guest::new(row));
        } else if row.has("cfg") {
            cfg = row.rows("cfg").pop();
        } else if let Some(guest) = &mut guest {
            if row.has("end") {
                assert_eq!(guest.tag_digits(), row.text("tags"), "tags at the end of a sequence");
                assert_eq!(guest.data_digits(), row.text("data"), "data at the end of a sequence");
            } else {
                run_step(guest, cfg.as_ref().expect("a configuration"), row);
            }
        }
    }
}

#[test]
fn sequences_answer_as_recorded() {
    run_sequences("mte_seq.jsonl");
}

#[test]
fn sequences_with_varied_controls_answer_as_recorded() {
    run_sequences("mte_seq_vary.jsonl");
}

#[test]
fn stage_1_tag_check_fault_has_the_esr_a_linux_guest_reported() {
    let fault = |access| Fault {
        kind: FaultKind::TagCheck,
        stage: Stage::One,
        level: 0,
        access,
        va: Va(0x0500_0000_4100_0000),
        ipa: Ipa(0x4100_0000),
        isv: true,
        size: 8,
    };

    assert_eq!(fault(Access::Read).esr(1), 0x9600_0011);
    assert_eq!(fault(Access::Write).esr(1), 0x9600_0051);
}
