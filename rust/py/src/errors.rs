//! Errors of the pure crates, as the exceptions of `python/tagvisor/errors.py`.
//!
//! The classes are written in Python so that they carry fields and pickle; each is raised with its constructor's
//! arguments, in order.

use pyo3::prelude::*;
use tagvisor_arch::{Fault, FaultKind};
use tagvisor_explore::ExploreError;
use tagvisor_host::{ConfigError, Errno, GuestExit as Exit, KnobError, Policy, Signal, UnknownProfile};

pyo3::import_exception!(tagvisor.errors, ArgumentError);
pyo3::import_exception!(tagvisor.errors, GuestException);
pyo3::import_exception!(tagvisor.errors, GuestExit);
pyo3::import_exception!(tagvisor.errors, InternalError);
pyo3::import_exception!(tagvisor.errors, LinuxError);
pyo3::import_exception!(tagvisor.errors, SizeError);
pyo3::import_exception!(tagvisor.errors, UnknownKnobError);
pyo3::import_exception!(tagvisor.errors, UnknownKnobValueError);
pyo3::import_exception!(tagvisor.errors, UnknownProfileError);
pyo3::import_exception!(tagvisor.errors, UserSignal);

/// The exception level a guest's instructions run at.
const GUEST_EL: u8 = 1;

/// Why a call through the door has no answer.
pub(crate) enum Refusal {
    /// A machine that cannot be built.
    Config(ConfigError),
    /// No policy profile of that name.
    Profile(UnknownProfile),
    /// No such knob, or no such value of it.
    Knob(KnobError),
    /// The modelled kernel refused a call.
    Linux {
        /// With what.
        errno: Errno,
        /// Which call.
        call: &'static str,
    },
    /// A process's access ended in a signal.
    Signal(Signal),
    /// A guest's access faulted, or left `KVM_RUN`.
    Exit(Exit),
    /// The explorer cannot take this machine or these actors.
    Explore(ExploreError),
    /// A Python exception, such as `KeyboardInterrupt`, to be raised as it is.
    Python(PyErr),
    /// An argument that a pure crate refused.
    Argument {
        /// Its name.
        argument: &'static str,
        /// What was given, or what is wrong with it.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// An earlier call panicked in the middle of a step.
    Poisoned,
}

impl Refusal {
    /// For `map_err`: the refusal of `call`.
    pub(crate) fn of(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Linux { errno, call }
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<UnknownProfile> for Refusal {
    fn from(error: UnknownProfile) -> Self {
        Self::Profile(error)
    }
}

impl From<KnobError> for Refusal {
    fn from(error: KnobError) -> Self {
        Self::Knob(error)
    }
}

impl From<ExploreError> for Refusal {
    fn from(error: ExploreError) -> Self {
        Self::Explore(error)
    }
}

impl From<Signal> for Refusal {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

impl From<Exit> for Refusal {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Config(error) => config_error(error),
            Refusal::Profile(error) => UnknownProfileError::new_err(("name", error.name, one_of_the_profiles())),
            Refusal::Knob(error) => knob_error(error),
            Refusal::Linux { errno, call } => LinuxError::new_err((errno.name(), call)),
            Refusal::Signal(signal) => user_signal(signal),
            Refusal::Exit(exit) => guest_exit(exit),
            Refusal::Explore(error) => explore_error(&error),
            Refusal::Python(error) => error,
            Refusal::Argument {
                argument,
                value,
                expected,
            } => ArgumentError::new_err((argument, value, expected)),
            Refusal::Poisoned => {
                InternalError::new_err("the machine had an internal error before and refuses further use")
            }
        }
    }
}

fn config_error(error: ConfigError) -> PyErr {
    let ConfigError {
        argument,
        value,
        expected,
    } = error;
    let size = matches!(argument, "memory" | "zone_device" | "mmio" | "swap" | "zswap");
    match value.parse::<u64>() {
        Ok(number) if size => SizeError::new_err((argument, number, expected)),
        Ok(number) => ArgumentError::new_err((argument, number, expected)),
        Err(_) => ArgumentError::new_err((argument, value, expected)),
    }
}

fn one_of_the_profiles() -> String {
    let names: Vec<_> = Policy::profiles().iter().map(|p| p.name).collect();
    format!("one of {}", names.join(", "))
}

fn knob_error(error: KnobError) -> PyErr {
    match error {
        KnobError::UnknownKnob { knob } => {
            let ids: Vec<_> = Policy::knobs().iter().map(|k| k.id).collect();
            UnknownKnobError::new_err(("knob", knob, format!("one of {}", ids.join(", "))))
        }
        KnobError::UnknownValue { knob, value, expected } => {
            UnknownKnobValueError::new_err((knob, value, format!("one of {expected}")))
        }
        other => ArgumentError::new_err(("knob", other.to_string(), "a knob and one of its values")),
    }
}

fn explore_error(error: &ExploreError) -> PyErr {
    match error {
        ExploreError::NoLedger => ArgumentError::new_err((
            "host",
            "a host with ledger=False",
            "ledger=True: the ledger is what decides",
        )),
        ExploreError::Tlb(bits) => {
            let given = format!("a host with tlb_bits={bits}");
            ArgumentError::new_err(("host", given, "tlb_bits=0: a TLB is not part of an explored state"))
        }
        ExploreError::Decider => ArgumentError::new_err((
            "host",
            "a host whose policy overrides decide()",
            "a policy of plain values: an explorer's order is not the decider's",
        )),
        ExploreError::NoActors => ArgumentError::new_err(("actors", "no operation", "at least one operation")),
        other => ArgumentError::new_err(("host", other.to_string(), "what the explorer can take")),
    }
}

fn user_signal(signal: Signal) -> PyErr {
    let (name, code) = match signal {
        Signal::SegvMapErr { .. } => ("SIGSEGV", "SEGV_MAPERR"),
        Signal::SegvAccErr { .. } => ("SIGSEGV", "SEGV_ACCERR"),
        Signal::SegvMteSerr { .. } => ("SIGSEGV", "SEGV_MTESERR"),
        Signal::SigBus { .. } => ("SIGBUS", "BUS_ADRERR"),
        Signal::SigBusMce { .. } => ("SIGBUS", "BUS_MCEERR_AR"),
    };
    UserSignal::new_err((name, code, signal.addr().0, signal.describe()))
}

/// `ESR_EL1` of an exception of unknown reason: EC 0, IL set.
const UNKNOWN_REASON: u64 = 1 << 25;

fn guest_exit(exit: Exit) -> PyErr {
    match exit {
        Exit::Exception(fault) => guest_exception(&fault, GUEST_EL),
        Exit::Undefined => {
            let text = "an UNDEFINED instruction";
            GuestException::new_err((UNKNOWN_REASON, 0, 0, "undefined", text))
        }
        Exit::Errno(errno) => GuestExit::new_err((None::<()>, errno.name())),
        Exit::MemoryFault {
            errno,
            flags,
            gpa,
            size,
        } => GuestExit::new_err((None::<()>, errno.name(), (flags, gpa.0, size))),
        Exit::Mmio { write, ipa, len, value } => GuestExit::new_err(((write, ipa.0, len, value), None::<&str>)),
    }
}

/// A fault of an instruction executed at `el`.
pub(crate) fn guest_exception(fault: &Fault, el: u8) -> PyErr {
    let kind = match fault.kind {
        FaultKind::AddressSize => "address-size",
        FaultKind::Translation => "translation",
        FaultKind::AccessFlag => "access-flag",
        FaultKind::Permission => "permission",
        FaultKind::Alignment => "alignment",
        FaultKind::TagCheck => "tag-check",
        FaultKind::SyncExternalAbort => "external-abort",
        FaultKind::SyncExternalAbortOnWalk => "external-abort-on-walk",
    };
    GuestException::new_err((fault.esr(el), fault.far(), fault.hpfar(), kind, fault.to_string()))
}
