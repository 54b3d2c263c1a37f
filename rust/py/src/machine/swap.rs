//! Swap, and what else keeps tags outside memory: the machine's methods.

use numpy::PyArray1;
use pyo3::prelude::*;
use tagvisor_host::{MmId, SwapArea, SwapKind, SwapStat, TagSegment};

use super::{Machine, unknown};
use crate::errors::Refusal;

/// Address, pages, tags.
type Segment<'py> = (u64, u64, Bound<'py, PyArray1<u8>>);
/// Kind, slots, slots in use, priority, on.
type SwapLine = (&'static str, u64, u64, i16, bool);

/// A swap area from its size, kind and priority.
pub(super) fn area((bytes, kind, priority): (u64, String, Option<i16>)) -> PyResult<SwapArea> {
    let kind = match kind.as_str() {
        "nvme" => SwapKind::Nvme,
        "zram" => SwapKind::Zram,
        other => return Err(unknown("swap", other, "'nvme' or 'zram'")),
    };
    Ok(SwapArea { bytes, kind, priority })
}

#[pymethods]
impl Machine {
    /// After so many allocations of a buffer for a page's tags, so many fail.
    fn fail_tag_saves(&self, py: Python<'_>, count: u64, after: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine.fail_tag_saves(count, after);
            Ok(())
        })
    }

    /// Address, pages and tags of each segment of tags in a core dump.
    fn core_dump<'py>(&self, py: Python<'py>, mm: u32) -> PyResult<Vec<Segment<'py>>> {
        let segments = self.with(py, |machine| Ok(machine.core_dump(MmId(mm))))?;
        let to_python = |s: TagSegment| (s.va.0, s.pages, PyArray1::from_vec(py, s.tags));
        Ok(segments.into_iter().map(to_python).collect())
    }

    /// Suspends to disk and resumes; how many pages had their tags saved.
    fn hibernate(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |machine| machine.hibernate().map_err(Refusal::of("hibernate")))
    }

    /// `swapoff` of all devices.
    fn swapoff(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |machine| machine.swapoff().map_err(Refusal::of("swapoff")))
    }

    /// `swapoff` of one device.
    fn swapoff_device(&self, py: Python<'_>, device: u8) -> PyResult<()> {
        self.with(py, |machine| {
            machine.swapoff_device(device).map_err(Refusal::of("swapoff"))
        })
    }

    /// `swapon` of a device that was turned off.
    fn swapon(&self, py: Python<'_>, device: u8) -> PyResult<()> {
        self.with(py, |machine| machine.swapon(device).map_err(Refusal::of("swapon")))
    }

    /// zswap writes so many of its oldest pages back; how many were.
    fn zswap_shrink(&self, py: Python<'_>, pages: u64) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.zswap_shrink(pages)))
    }

    /// `/proc/swaps`.
    fn swaps(&self, py: Python<'_>) -> PyResult<Vec<SwapLine>> {
        let line = |area: SwapStat| {
            let kind = match area.kind {
                SwapKind::Nvme => "nvme",
                SwapKind::Zram => "zram",
            };
            (kind, area.slots, area.used, area.priority, area.on)
        };
        self.with(py, |machine| Ok(machine.swaps().into_iter().map(line).collect()))
    }
}
