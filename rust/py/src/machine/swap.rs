//! Swap, and what else keeps tags outside memory: the machine's methods.

use pyo3::prelude::*;

use super::Machine;

#[pymethods]
impl Machine {
    /// After so many allocations of a buffer for a page's tags, so many fail.
    fn fail_tag_saves(&self, py: Python<'_>, count: u64, after: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine.fail_tag_saves(count, after);
            Ok(())
        })
    }
}
