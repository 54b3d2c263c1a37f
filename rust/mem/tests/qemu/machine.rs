//! The recorded machine, set up as the vector files describe it.

use tagvisor_arch::{AtKind, Features, Pa, Stop, Tag, Untraced, Va, register};
use tagvisor_mem::{Pe, Region, TlbMode};

use crate::rows::Row;

const PAGE: u64 = 4096;
const TABLES: [u64; 3] = [0x4800_0000, 0x4800_4000, 0x4800_5000];
const BR_X0: u32 = 0xd61f_0000;

pub(crate) struct Machine {
    pub(crate) pe: Pe,
}

/// What a step did, as far as it is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// 0: it completed.
    pub(crate) target: u64,
    pub(crate) esr: u64,
    far: u64,
    hpfar: u64,
    x: [u64; 2],
    tfsr: [u64; 2],
}

impl Step {
    pub(crate) fn recorded(row: &Row) -> Self {
        let of = |key| row.num_or(key, || 0);
        let esr = of("esr");
        let undefined = esr >> 26 == 0;
        Self {
            target: row.num("st"),
            esr: compared(esr, esr),
            far: if undefined { 0 } else { of("far") },
            hpfar: of("hpfar") & 0xff_ffff_fff0,
            x: [of("x1"), of("x2")],
            tfsr: [of("tfsr") & 1, of("tfsre0") & 1],
        }
    }
}

/// The bits of a syndrome that are compared: of an UNDEFINED instruction the class, of a fault on a stage-1 walk not `WnR`.
fn compared(esr: u64, recorded: u64) -> u64 {
    match recorded {
        _ if recorded >> 26 == 0 => esr & 0xfc00_0000,
        _ if recorded & 0x80 != 0 => esr & 0xffff_c0bf,
        _ => esr & 0xffff_c0ff,
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        let ram = Region::ram(Pa(0x4000_0000), 1 << 30, "ram");
        Self {
            pe: Pe::new(vec![ram], Features::default(), TlbMode::Off, 1).expect("one region"),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: u64) {
        let register = register(name).unwrap_or_else(|| panic!("no register {name}"));
        assert!(self.pe.set_register(register, value), "{name} is read-only");
    }

    pub(crate) fn put(&mut self, words: &[(u64, u64)]) {
        for &(pa, word) in words {
            self.pe.memory_mut().write_u64(Pa(pa), word);
        }
    }

    pub(crate) fn clear(&mut self, words: &[(u64, u64)]) {
        for &(pa, _) in words {
            self.pe.memory_mut().write_u64(Pa(pa), 0);
        }
    }

    pub(crate) fn word(&self, pa: u64) -> u64 {
        self.pe.memory().read_u64(Pa(pa))
    }

    pub(crate) fn tag(&self, pa: u64) -> u64 {
        self.pe.memory().tag(Pa(pa)).get().into()
    }

    pub(crate) fn set_tag(&mut self, pa: u64, tag: u64) {
        self.pe.memory_mut().set_tag(Pa(pa), Tag::new(tag as u8));
    }

    pub(crate) fn at(&mut self, kind: &str, va: u64) -> u64 {
        let kind = AtKind::parse(kind).unwrap_or_else(|| panic!("AT {kind}"));
        self.pe.at(kind, Va(va), &mut Untraced)
    }

    /// Runs one recorded step.
    pub(crate) fn step(&mut self, row: &Row) -> Step {
        let core = self.pe.core_mut();
        core.cpu.el = row.num("el") as u8;
        core.cpu.tco = row.num("tco") != 0;
        core.x[..3].fill(0);
        let x = row.nums_of("x");
        core.x[..x.len()].copy_from_slice(&x);
        let (el, word) = (core.cpu.el, row.num("word") as u32);
        let outcome = match word {
            BR_X0 => self.pe.fetch(Va(x[0])).map_err(Stop::from),
            _ => self.pe.execute(word),
        };
        let core = self.pe.core();
        let mut step = Step {
            target: 0,
            esr: 0,
            far: 0,
            hpfar: 0,
            x: [1, 2].map(|number| {
                if row.has(&format!("x{number}")) {
                    core.x[number]
                } else {
                    0
                }
            }),
            tfsr: [1, 0].map(|el| u64::from(core.cpu.tfsr[el]) & 1),
        };
        match outcome {
            Ok(()) => {}
            Err(Stop::Exception(taken)) => {
                step.target = taken.taken_to(el).into();
                step.esr = compared(taken.esr(el), row.num_or("esr", || u64::MAX));
                (step.far, step.hpfar) = (taken.far(), taken.hpfar());
            }
            Err(Stop::NotModelled) => panic!("{word:#x} is not modelled: {row}"),
        }
        step
    }

    /// Stage-2 tables and tags of an `mte-seq` sequence.
    pub(crate) fn map_sequence(&mut self, row: &Row, ipa: u64, pa: u64) {
        let [one, two, three] = TABLES;
        self.set(
            "VTCR_EL2",
            1 << 31 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 0x18,
        );
        self.set("VTTBR_EL2", one);
        self.put(&[
            (one + 8 * (ipa >> 30), two | 3),
            (two + 8 * (ipa >> 21 & 511), three | 3),
        ]);
        for (index, page) in (0..).zip(row.rows("pages")) {
            if page.num("valid") != 0 {
                let attributes = page.num("memattr") << 2 | page.num("s2ap") << 6 | 3 << 8 | page.num("af") << 10;
                self.put(&[(three + 8 * index, (pa + PAGE * index) | attributes | 3)]);
            }
        }
        for (granule, digit) in (0..).zip(row.text("tags").chars()) {
            self.set_tag(pa + 16 * granule, digit.to_digit(16).expect("a hex digit").into());
        }
    }

    /// Tags and data of some pages, in hexadecimal digits.
    pub(crate) fn contents(&self, pa: u64, pages: u64) -> (String, String) {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble");
        let tags = (0..pages * PAGE / 16).map(|granule| digit(self.tag(pa + 16 * granule) as u8));
        let mut data = vec![0; (pages * PAGE) as usize];
        self.pe.memory().read(Pa(pa), &mut data);
        let data = data.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]);
        (tags.collect(), data.collect())
    }
}
