//! The importer of lackey's text, for `tagvisor record`: bytes of a pipe in, columns out.

use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tagvisor_replay::lackey::{Importer, LackeyError};

use crate::enter::enter;

pyo3::import_exception!(tagvisor.errors, RecordError);

/// Columns as Python has them: operation, size, address.
pub(crate) type PyColumns<'py> = (
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<u64>>,
);

/// Lackey's text, joined with heap events, to event columns.
#[pyclass(frozen, module = "tagvisor._native")]
pub(crate) struct LackeyImporter {
    importer: Mutex<Importer>,
}

impl LackeyImporter {
    /// Nothing here keeps half a state after a panic that a later call could be misled by: the recording ends.
    fn with<T: Send>(&self, work: impl FnOnce(&mut Importer) -> T + Send) -> T {
        work(&mut self.importer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl LackeyImporter {
    #[new]
    #[pyo3(signature = (max_accesses = None))]
    fn new(max_accesses: Option<u64>) -> Self {
        Self {
            importer: Mutex::new(Importer::new(max_accesses)),
        }
    }

    /// Takes the next bytes of the text, cut anywhere.
    fn feed(&self, py: Python<'_>, text: &[u8]) -> PyResult<()> {
        let answer: Result<(), LackeyError> = enter(py, || Ok(self.with(|it| it.feed(text))))?;
        answer.map_err(|error| {
            RecordError::new_err((
                error.to_string(),
                "record with valgrind 3.15 or later, whose lackey prints one access a line",
            ))
        })
    }

    /// The events since the last call.
    fn drain<'py>(&self, py: Python<'py>) -> PyColumns<'py> {
        let columns = self.with(Importer::drain);
        (
            columns.op.into_pyarray(py),
            columns.size.into_pyarray(py),
            columns.addr.into_pyarray(py),
        )
    }

    /// What has been imported so far, by name.
    fn tally<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (tally, pages) = self.with(|it| (it.tally(), it.pages()));
        let dict = PyDict::new(py);
        for (name, value) in [
            ("lines", tally.lines),
            ("loads", tally.loads),
            ("stores", tally.stores),
            ("mallocs", tally.mallocs),
            ("frees", tally.frees),
            ("reallocs", tally.reallocs),
            ("allocator_accesses", tally.allocator_accesses),
            ("pages", pages),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    /// Whether the limit of accesses is reached.
    #[getter]
    fn full(&self) -> bool {
        self.with(|it| it.is_full())
    }

    /// Whether the heap wrapper has reported.
    #[getter]
    fn heap_seen(&self) -> bool {
        self.with(|it| it.heap_seen())
    }

    /// The first of valgrind's own messages.
    #[getter]
    fn messages(&self) -> Vec<String> {
        self.with(|it| it.messages().to_vec())
    }
}
