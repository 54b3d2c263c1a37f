//! Swap from outside: devices turned on and off, and failures injected.
//!
//! **Models** `swapon`, `swapoff` and `/proc/swaps`, and `failslab` for the buffers that `mte_save_tags` allocates.
//! **Leaves out** devices that are first turned on while the machine runs: those it has are named when it is built.
//!
//! **Keeps**: a device that was turned off has no slot in use and no saved tags.

use crate::errno::Errno;
use crate::machine::Machine;
use crate::mteswap::FailingTagSaves;
use crate::ops::Op;
use crate::swap::SwapStat;

impl Machine {
    /// Fault injection (`failslab`): after so many allocations of a buffer for a page's tags, so many fail.
    pub fn fail_tag_saves(&mut self, count: u64, after: u64) {
        *self.host.failing_tag_saves = FailingTagSaves { after, count };
    }

    /// `swapoff -a`: every device that is on; -ENOMEM when memory cannot take what is swapped out.
    pub fn swapoff(&mut self) -> Result<(), Errno> {
        let on = (0..self.host.swap.devices() as u8).filter(|device| self.host.swap.is_on(*device));
        for device in on.collect::<Vec<_>>() {
            self.swapoff_device(device)?;
        }
        Ok(())
    }

    /// `swapoff` of one device, by its number: -EINVAL for one that is not on.
    pub fn swapoff_device(&mut self, device: u8) -> Result<(), Errno> {
        if !self.host.swap.is_on(device) {
            return Err(Errno::Einval);
        }
        self.syscall(Op::Swapoff(device)).map(drop)
    }

    /// `swapon` of a device that was turned off, with the priority it had: -EINVAL for one that there is not, -EBUSY for one
    /// that is on.
    pub fn swapon(&mut self, device: u8) -> Result<(), Errno> {
        if usize::from(device) >= self.host.swap.devices() {
            return Err(Errno::Einval);
        }
        if self.host.swap.is_on(device) {
            return Err(Errno::Ebusy);
        }
        self.host.swap.set_writeok(device, true);
        Ok(())
    }

    /// `/proc/swaps`.
    pub fn swaps(&self) -> Vec<SwapStat> {
        self.host.swap.stat()
    }
}
