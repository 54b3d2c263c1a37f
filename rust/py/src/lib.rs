//! `tagvisor._native`: the Python face of the pure crates, and the only crate that names PyO3 or numpy.
//!
//! Nothing is decided here. Each method turns plain Python values into the host's types, passes [`enter`]'s door, and
//! turns the answer back; what arguments may be, and what users read, is said in `python/tagvisor`.

#![allow(clippy::needless_pass_by_value)] // PyO3 hands arguments over by value

#[cfg(not(panic = "unwind"))]
compile_error!("a panic must become tagvisor.InternalError: build with panic = \"unwind\"");

mod arrays;
mod decide;
mod enter;
mod errors;
mod explore;
mod machine;
mod op;
mod pe;
mod policy;
mod replay;

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How this module was built: version, profile, ABI and target.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item(
        "abi",
        if cfg!(feature = "abi3") {
            "abi3-py311"
        } else {
            "version-specific"
        },
    )?;
    info.set_item("target", concat_target())?;
    Ok(info)
}

fn concat_target() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// Says at import that a debug build answers the same, slowly: whoever measures it by mistake should know.
fn warn_of_debug_build(py: Python<'_>) -> PyResult<()> {
    if cfg!(debug_assertions) {
        let message = c"tagvisor was compiled without optimisation: results are the same, speed is not";
        PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), message, 1)?;
    }
    Ok(())
}

/// The native half of tagvisor.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::build_info;
    #[pymodule_export]
    use super::explore::{explore, schedule};
    #[pymodule_export]
    use super::machine::Machine;
    #[pymodule_export]
    use super::op::Op;
    #[pymodule_export]
    use super::pe::Pe;
    #[pymodule_export]
    use super::policy::{policy_knobs, policy_profile, policy_profiles, policy_replace};

    #[pymodule_export]
    use super::replay::{LackeyImporter, Replay, bench, benchmarks};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::enter::install_panic_hook();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("HEAP_WINDOW", tagvisor_replay::lackey::WINDOW)?;
        super::warn_of_debug_build(module.py())
    }
}
