//! Tags between numpy's arrays, one `uint8` a tag, and the host's packed pages.

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use tagvisor_arch::{GRANULES_PER_PAGE, PageTags, Tag};

use crate::errors::ArgumentError;

/// A page's tags as 256 bytes.
pub(crate) fn to_array<'py>(py: Python<'py>, tags: &PageTags) -> Bound<'py, PyArray1<u8>> {
    PyArray1::from_iter(py, tags.iter().map(Tag::get))
}

/// 256 bytes as a page's tags; of each byte the low four bits count, as for `STG`'s register.
pub(crate) fn from_array(argument: &'static str, array: &PyReadonlyArray1<'_, u8>) -> PyResult<PageTags> {
    let bytes = array.as_array();
    if bytes.len() != GRANULES_PER_PAGE {
        let given = format!("an array of {} tags", bytes.len());
        return Err(ArgumentError::new_err((
            argument,
            given,
            "256 tags, one a granule of a page",
        )));
    }
    let mut tags = PageTags::ZERO;
    for (granule, &byte) in bytes.iter().enumerate() {
        tags.set(granule, Tag::new(byte));
    }
    Ok(tags)
}
