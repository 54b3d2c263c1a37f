//! A bare processing element for Python: `tagvisor.Pe` derives from this class.
//!
//! Single accesses keep the GIL (they take nanoseconds) unless another thread has the processing element; bulk calls give it
//! up, in chunks between which Python's signals are looked at. What is said here is what Python sees: no façade stands
//! before the hot methods.

use std::borrow::Cow;
use std::sync::Mutex;

use numpy::{PyArray1, PyReadonlyArray1, ToPyArray};
use pyo3::prelude::*;
use tagvisor_arch::{
    AtKind, Features, GRANULE_SIZE, Level, PAGE_SIZE, Pa, Register, Stage, Stop, Tag, Untraced, Va, register,
};
use tagvisor_mem::{Pe as Element, Region, RegionKind, StaleUse, TlbMode};

use crate::enter::{enter, quick};
use crate::errors::{ArgumentError, Refusal, guest_exception};

/// Elements of a bulk call between two looks at signals.
const CHUNK: usize = 8 << 10;
/// Most bytes that `read` and `write` move.
const MOST_BYTES: usize = 1 << 24;

/// Target level, `ESR_ELx`, `FAR_ELx`, `HPFAR_EL2`.
type Taken = (u8, u64, u64, u64);
/// What a TLB noticed, address, where the entry leads, where the tables lead.
type Report = (&'static str, u64, u64, Option<u64>);
/// Stage, level, address and value of a descriptor.
type Step = (u8, i8, u64, u64);

/// One processing element with its registers and tagged memory, and no kernel.
#[pyclass(frozen, subclass, module = "tagvisor._native")]
pub(crate) struct Pe {
    /// Poisoned by a panic: it refuses further use.
    inner: Mutex<Element>,
}

impl Pe {
    /// Runs short work on the processing element.
    #[inline]
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Element) -> T + Send) -> PyResult<T> {
        quick(py, &self.inner, work)
    }

    /// Maps every element of an array, without the GIL.
    fn each<T: Copy + Default + Send>(
        &self,
        py: Python<'_>,
        inputs: &[u64],
        work: impl Fn(&mut Element, u64) -> T + Sync,
    ) -> PyResult<Vec<T>> {
        let mut answers = vec![T::default(); inputs.len()];
        for (inputs, answers) in inputs.chunks(CHUNK).zip(answers.chunks_mut(CHUNK)) {
            enter(py, || {
                let mut element = self.inner.lock().map_err(|_| Refusal::Poisoned)?;
                for (answer, &input) in answers.iter_mut().zip(inputs) {
                    *answer = work(&mut element, input);
                }
                Ok(())
            })?;
            py.check_signals()?;
        }
        Ok(answers)
    }
}

#[pymethods]
#[allow(clippy::used_underscore_items)] // a leading underscore is what the façade wraps
impl Pe {
    #[new]
    fn new(
        py: Python<'_>,
        regions: Vec<(u64, u64, String)>,
        features: Vec<String>,
        tlb: &str,
        seed: u64,
    ) -> PyResult<Self> {
        let tlb = match tlb {
            "off" => TlbMode::Off,
            "on" => TlbMode::On,
            "check" => TlbMode::Check,
            other => {
                return Err(ArgumentError::new_err((
                    "tlb",
                    other.to_owned(),
                    "'off', 'on' or 'check'",
                )));
            }
        };
        let regions = regions.iter().map(region).collect::<PyResult<_>>()?;
        let features = features
            .iter()
            .map(|name| feature(name))
            .collect::<PyResult<Vec<_>>>()?;
        let features = features.into_iter().collect();
        enter(py, || {
            let element = Element::new(regions, features, tlb, seed).map_err(|error| Refusal::Argument {
                argument: "regions",
                value: error.to_string(),
                expected: "page-aligned regions apart from each other, below 2^52".to_owned(),
            })?;
            Ok(Self {
                inner: Mutex::new(element),
            })
        })
    }

    /// The names of all registers.
    #[staticmethod]
    fn register_names() -> Vec<String> {
        let numbered = (0..31).map(|number| format!("X{number}"));
        let vectors = (0..32).map(|number| format!("V{number}"));
        numbered
            .chain(["SP", "PC", "EL"].map(str::to_owned))
            .chain(vectors)
            .chain(Register::names().map(str::to_owned))
            .collect()
    }

    /// The names of all features that can be asked for.
    #[staticmethod]
    fn feature_names() -> Vec<String> {
        Features::names().collect()
    }

    /// A register's value.
    fn register(&self, py: Python<'_>, name: &str) -> PyResult<u128> {
        let place = Place::named(name)?;
        self.with(py, |element| place.read(element))
    }

    /// Writes a register.
    fn set_register(&self, py: Python<'_>, name: &str, value: u128) -> PyResult<()> {
        let place = Place::named(name)?;
        let expected = match place {
            Place::V(_) => None,
            Place::El => (value > 2).then_some("0, 1 or 2"),
            _ => (value >> 64 != 0).then_some("an integer from 0 to 2^64 - 1"),
        };
        if let Some(expected) = expected {
            return Err(ArgumentError::new_err((name.to_owned(), value, expected)));
        }
        if self.with(py, |element| place.write(element, value))? {
            return Ok(());
        }
        Err(ArgumentError::new_err((
            name.to_owned(),
            value,
            "a register that can be written",
        )))
    }

    /// Executes one instruction: None, or the exception it took.
    fn _execute(&self, py: Python<'_>, word: u32) -> PyResult<Option<Taken>> {
        let (el, stop) = self.with(py, |element| {
            let el = element.core().cpu.el;
            (el, element.execute(word))
        })?;
        match stop {
            Ok(()) => Ok(None),
            Err(Stop::Exception(taken)) => Ok(Some((taken.taken_to(el), taken.esr(el), taken.far(), taken.hpfar()))),
            Err(Stop::NotModelled) => Err(ArgumentError::new_err((
                "word",
                format!("{word:#010x}"),
                "a load, store, atomic, tag, cache, address translation or system register instruction",
            ))),
        }
    }

    /// Fetches an instruction: None, or the exception it took.
    fn _fetch(&self, py: Python<'_>, va: u64) -> PyResult<Option<Taken>> {
        self.with(py, |element| {
            let el = element.core().cpu.el;
            let fault = element.fetch(Va(va)).err()?;
            Some((fault.taken_to(el), fault.esr(el), fault.far(), fault.hpfar()))
        })
    }

    /// Loads `size` bytes (1, 2, 4 or 8) at a pointer, translated and tag-checked at the current exception level.
    ///
    /// Raises `GuestException` for a fault.
    #[pyo3(signature = (va, size = 8))]
    fn load(&self, py: Python<'_>, #[pyo3(from_py_with = va_of)] va: u64, size: u8) -> PyResult<u64> {
        check_size(size)?;
        let (el, loaded) = self.with(py, |element| (element.core().cpu.el, element.load(Va(va), size)))?;
        loaded.map_err(|fault| guest_exception(&fault, el))
    }

    /// Stores the low `size` bytes (1, 2, 4 or 8) of `value` at a pointer, translated and tag-checked.
    ///
    /// Raises `GuestException` for a fault.
    #[pyo3(signature = (va, value, size = 8))]
    fn store(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = va_of)] va: u64,
        #[pyo3(from_py_with = value_of)] value: u64,
        size: u8,
    ) -> PyResult<()> {
        check_size(size)?;
        let (el, stored) = self.with(py, |element| {
            (element.core().cpu.el, element.store(Va(va), size, value))
        })?;
        stored.map_err(|fault| guest_exception(&fault, el))
    }

    /// `LDG`: the allocation tag of the granule a pointer is in.
    ///
    /// Raises `GuestException` for a fault.
    fn ldg(&self, py: Python<'_>, #[pyo3(from_py_with = va_of)] va: u64) -> PyResult<u8> {
        let (el, loaded) = self.with(py, |element| (element.core().cpu.el, element.ldg(Va(va))))?;
        loaded.map(Tag::get).map_err(|fault| guest_exception(&fault, el))
    }

    /// `STG` of a pointer with its own tag.
    ///
    /// Raises `GuestException` for a fault.
    fn stg(&self, py: Python<'_>, #[pyo3(from_py_with = va_of)] va: u64) -> PyResult<()> {
        let (el, stored) = self.with(py, |element| (element.core().cpu.el, element.stg(Va(va), Va(va).tag())))?;
        stored.map_err(|fault| guest_exception(&fault, el))
    }

    /// What any call costs: an address in, an address out. The floor of the benchmark of a single access.
    #[allow(clippy::unused_self)] // a method, as what it is the floor of is one
    fn _nothing(&self, va: u64) -> u64 {
        va
    }

    /// What a TLB that checks has noticed: kind, address, where it was cached, where the tables lead now.
    fn _tlb_reports(&self, py: Python<'_>) -> PyResult<Vec<Report>> {
        self.with(py, |element| {
            let reports = element.tlb_reports().iter();
            reports
                .map(|report| {
                    let what = match report.what {
                        StaleUse::Used => "stale entry used",
                        StaleUse::NotBroken => "not broken before made",
                    };
                    (what, report.va.0, report.cached.0, report.now.map(|pa| pa.0))
                })
                .collect()
        })
    }

    /// `AT`: `PAR_EL1`.
    fn _par(&self, py: Python<'_>, kind: &str, va: u64) -> PyResult<u64> {
        let kind = at_kind(kind)?;
        self.with(py, |element| element.at(kind, Va(va), &mut Untraced))
    }

    /// `AT` with every descriptor that was read.
    fn _par_with_steps(&self, py: Python<'_>, kind: &str, va: u64) -> PyResult<(Vec<Step>, u64)> {
        let kind = at_kind(kind)?;
        self.with(py, |element| {
            let mut steps = Vec::new();
            let par = element.at(kind, Va(va), &mut |stage, step: Level| {
                let stage = if stage == Stage::One { 1 } else { 2 };
                steps.push((stage, step.level, step.desc_pa.0, step.desc));
            });
            (steps, par)
        })
    }

    /// `AT` of many addresses.
    fn _par_many<'py>(
        &self,
        py: Python<'py>,
        kind: &str,
        vas: PyReadonlyArray1<'py, u64>,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let kind = at_kind(kind)?;
        let pars = self.each(py, slice("vas", &vas)?, |element, va| {
            element.at(kind, Va(va), &mut Untraced)
        })?;
        Ok(pars.to_pyarray(py))
    }

    /// Checks many accesses: 0, or the `ESR_ELx` of the fault.
    fn _check_many<'py>(
        &self,
        py: Python<'py>,
        pointers: PyReadonlyArray1<'py, u64>,
        size: u8,
        write: bool,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let faults = self.each(py, slice("pointers", &pointers)?, |element, va| {
            let el = element.core().cpu.el;
            element
                .check(Va(va), size, write)
                .map_or_else(|fault| fault.esr(el), |()| 0)
        })?;
        Ok(faults.to_pyarray(py))
    }

    /// The allocation tags of granules of physical memory, a byte each.
    fn _read_tags<'py>(&self, py: Python<'py>, pa: u64, count: usize) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tags = self.with(py, |element| {
            backed(element, pa, granules(count)?)?;
            Ok::<_, PyErr>(element.memory().read_tags(Pa(pa), granules(count)? as u64))
        })??;
        Ok(tags.to_pyarray(py))
    }

    /// Sets the allocation tags of granules of physical memory, a byte each.
    fn _write_tags(&self, py: Python<'_>, pa: u64, tags: PyReadonlyArray1<'_, u8>) -> PyResult<()> {
        let tags = tags
            .as_slice()
            .map_err(|_| ArgumentError::new_err(("tags", "a strided array", "a contiguous array of uint8")))?;
        self.with(py, |element| {
            backed(element, pa, granules(tags.len())?)?;
            element.memory_mut().write_tags(Pa(pa), tags);
            Ok(())
        })?
    }

    /// Bytes of physical memory.
    fn _read(&self, py: Python<'_>, pa: u64, count: usize) -> PyResult<Cow<'static, [u8]>> {
        self.with(py, |element| {
            backed(element, pa, count)?;
            let mut bytes = vec![0; count];
            element.memory().read(Pa(pa), &mut bytes);
            Ok(Cow::Owned(bytes))
        })?
    }

    /// Writes bytes of physical memory.
    fn _write(&self, py: Python<'_>, pa: u64, data: &[u8]) -> PyResult<()> {
        self.with(py, |element| {
            backed(element, pa, data.len())?;
            element.memory_mut().write(Pa(pa), data);
            Ok(())
        })?
    }

    /// The allocation tag of a granule of physical memory.
    fn _tag(&self, py: Python<'_>, pa: u64) -> PyResult<u8> {
        self.with(py, |element| {
            backed(element, pa, 1)?;
            Ok(element.memory().tag(Pa(pa)).get())
        })?
    }

    /// Sets the allocation tag of a granule of physical memory.
    fn _set_tag(&self, py: Python<'_>, pa: u64, tag: u8) -> PyResult<()> {
        self.with(py, |element| {
            backed(element, pa, 1)?;
            element.memory_mut().set_tag(Pa(pa), Tag::new(tag));
            Ok(())
        })?
    }
}

/// A register by name.
#[derive(Clone, Copy)]
enum Place {
    X(usize),
    V(usize),
    Sp,
    Pc,
    El,
    System(&'static Register),
}

impl Place {
    fn named(name: &str) -> PyResult<Self> {
        let numbered = |prefix, count| {
            let number = name.strip_prefix(prefix)?.parse().ok()?;
            (number < count).then_some(number)
        };
        let found = match name {
            "SP" => Some(Self::Sp),
            "PC" => Some(Self::Pc),
            "EL" => Some(Self::El),
            _ => (register(name).map(Self::System))
                .or_else(|| numbered("X", 31).map(Self::X))
                .or_else(|| numbered("V", 32).map(Self::V)),
        };
        found.ok_or_else(|| {
            ArgumentError::new_err((
                "register",
                name.to_owned(),
                "one of Pe.registers(), such as \"SCTLR_EL1\"",
            ))
        })
    }

    fn read(self, element: &Element) -> u128 {
        let core = element.core();
        match self {
            Self::X(number) => core.x[number].into(),
            Self::V(number) => core.v[number],
            Self::Sp => core.sp[core.cpu.el as usize].into(),
            Self::Pc => core.pc.into(),
            Self::El => core.cpu.el.into(),
            Self::System(register) => (register.read)(core).into(),
        }
    }

    /// False for a read-only register. The value fits.
    fn write(self, element: &mut Element, value: u128) -> bool {
        let core = element.core_mut();
        match self {
            Self::X(number) => core.x[number] = value as u64,
            Self::V(number) => core.v[number] = value,
            Self::Sp => core.sp[core.cpu.el as usize] = value as u64,
            Self::Pc => core.pc = value as u64,
            Self::El => core.cpu.el = value as u8,
            Self::System(register) => return element.set_register(register, value as u64),
        }
        true
    }
}

fn region((base, size, kind): &(u64, u64, String)) -> PyResult<Region> {
    let kind = match kind.as_str() {
        "ram" => RegionKind::Ram,
        "ram-no-tags" => RegionKind::RamNoTags,
        "device" => RegionKind::Device,
        other => {
            let expected = "'ram', 'ram-no-tags' or 'device'";
            return Err(ArgumentError::new_err(("regions", other.to_owned(), expected)));
        }
    };
    Ok(Region {
        kind,
        ..Region::ram(Pa(*base), *size, "memory")
    })
}

fn feature(name: &str) -> PyResult<Features> {
    Features::named(name).ok_or_else(|| {
        let names: Vec<_> = Features::names().collect();
        ArgumentError::new_err(("features", name.to_owned(), format!("one of {}", names.join(", "))))
    })
}

fn at_kind(kind: &str) -> PyResult<AtKind> {
    AtKind::parse(kind)
        .ok_or_else(|| ArgumentError::new_err(("kind", kind.to_owned(), "an operand of AT, such as 'S12E1R'")))
}

/// The pointer of an access.
fn va_of(given: &Bound<'_, PyAny>) -> PyResult<u64> {
    word_of("va", given)
}

/// The value of a store.
fn value_of(given: &Bound<'_, PyAny>) -> PyResult<u64> {
    word_of("value", given)
}

fn word_of(argument: &'static str, given: &Bound<'_, PyAny>) -> PyResult<u64> {
    given.extract().map_err(|_| {
        ArgumentError::new_err((
            argument,
            given.clone().unbind(),
            "an integer from 0 to 0xffffffffffffffff",
        ))
    })
}

fn check_size(size: u8) -> PyResult<()> {
    if matches!(size, 1 | 2 | 4 | 8) {
        return Ok(());
    }
    Err(ArgumentError::new_err(("size", size, "1, 2, 4 or 8")))
}

/// Physical addresses that some region has.
fn backed(element: &Element, pa: u64, count: usize) -> PyResult<()> {
    let expected = |what: &str| Err(ArgumentError::new_err(("pa", format!("{pa:#x}"), what.to_owned())));
    if count > MOST_BYTES {
        return expected("at most 16 MiB at once");
    }
    let Some(end) = pa.checked_add(count as u64) else {
        return expected("an address below 2^52");
    };
    let mut at = pa;
    loop {
        if element.memory().region_of(Pa(at).pfn()).is_none() {
            return expected("an address in a region, and all bytes from there on too");
        }
        at = (at / PAGE_SIZE + 1) * PAGE_SIZE;
        if at >= end {
            return Ok(());
        }
    }
}

/// Bytes of so many granules.
fn granules(count: usize) -> PyResult<usize> {
    let bytes = count
        .checked_mul(GRANULE_SIZE as usize)
        .filter(|&bytes| bytes <= MOST_BYTES);
    bytes.ok_or_else(|| ArgumentError::new_err(("count", count, "granules of at most 16 MiB")))
}

fn slice<'a>(argument: &'static str, array: &'a PyReadonlyArray1<'_, u64>) -> PyResult<&'a [u64]> {
    array
        .as_slice()
        .map_err(|_| ArgumentError::new_err((argument, "a strided array", "a contiguous array of uint64")))
}
