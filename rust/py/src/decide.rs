//! A Python policy that decides at each kernel event.
//!
//! The machine asks in the middle of a call, where nothing can be raised: what goes wrong is kept, nobody is asked again,
//! the call goes on with the policy's own values to a consistent machine, and then raises.

use std::sync::Mutex;

use pyo3::prelude::*;
use tagvisor_host::{Decider, KnobError};

use crate::errors::Refusal;

/// `Policy.decide` of a subclass.
pub(crate) struct PyDecider {
    decide: Py<PyAny>,
    failed: Mutex<Option<PyErr>>,
}

impl PyDecider {
    pub(crate) fn new(decide: Py<PyAny>) -> Self {
        let failed = Mutex::new(None);
        Self { decide, failed }
    }

    /// What went wrong since the last call, if anything.
    pub(crate) fn take_error(&self) -> Option<PyErr> {
        self.failed.lock().ok()?.take()
    }

    fn keep(&self, error: PyErr) {
        if let Ok(mut failed) = self.failed.lock() {
            failed.get_or_insert(error);
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.lock().is_ok_and(|failed| failed.is_some())
    }
}

impl Decider for PyDecider {
    fn decide(&self, knob: &'static str, event: &'static str) -> Option<String> {
        if self.has_failed() {
            return None;
        }
        let answer = Python::attach(|py| self.decide.call1(py, (knob, event))?.extract::<Option<String>>(py));
        answer.unwrap_or_else(|error| {
            self.keep(error);
            None
        })
    }

    fn refused(&self, error: KnobError) {
        self.keep(Refusal::Knob(error).into());
    }
}
