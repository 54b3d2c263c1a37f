//! The event record: what a workload is made of, as columns of fixed width.
//!
//! Models one ordered stream of a program's loads, stores and heap events. An event is an operation, an
//! address and a size; a stream of them is three columns, because columns compress, cross into Python as
//! arrays without a copy, and are read by the engine in order.
//!
//! Leaves out instruction fetches, data values and thread identities. A realloc has two pointers, so it is
//! two events: [`Op::ReallocFrom`] with the old pointer, then [`Op::Realloc`] with the new one.
//!
//! Invariant: a [`Batch`] has columns of one length. Whether each row makes sense is judged where the row is
//! used, so that a file of 10^8 rows is read once.
//!
//! ```
//! use tagvisor_replay::record::{Batch, Columns, Event, Op};
//!
//! let mut columns = Columns::default();
//! columns.push(Event { op: Op::Malloc, size: 24, addr: 0x5000 });
//! columns.push(Event { op: Op::Store, size: 8, addr: 0x5000 });
//! let batch = Batch::new(&columns.op, &columns.size, &columns.addr)?;
//! assert_eq!(batch.get(1), Ok(Event { op: Op::Store, size: 8, addr: 0x5000 }));
//! # Ok::<(), tagvisor_replay::record::RecordError>(())
//! ```

use thiserror::Error;

/// Addresses of recorded programs are below this: 48 bits, no tag, no sign extension.
pub const ADDR_LIMIT: u64 = 1 << 48;

/// The largest single access, in bytes. Saving a whole vector state is the largest that processors do.
pub const MAX_ACCESS: u32 = 4096;

/// What an event does; the numbers are the file format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// A load of `size` bytes at `addr`.
    Load = 0,
    /// A store of `size` bytes at `addr`.
    Store = 1,
    /// An allocation of `size` bytes was returned at `addr`.
    Malloc = 2,
    /// The allocation at `addr` was released; `size` is 0.
    Free = 3,
    /// The old pointer of the [`Op::Realloc`] that follows; `size` is 0.
    ReallocFrom = 4,
    /// The allocation was resized to `size` bytes and is now at `addr`, moved or in place.
    Realloc = 5,
}

impl Op {
    /// All operations, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Load,
        Self::Store,
        Self::Malloc,
        Self::Free,
        Self::ReallocFrom,
        Self::Realloc,
    ];

    /// The operation of that number.
    #[inline]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name that files and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Store => "store",
            Self::Malloc => "malloc",
            Self::Free => "free",
            Self::ReallocFrom => "realloc-from",
            Self::Realloc => "realloc",
        }
    }
}

/// One event.
///
/// `size` saturates: an allocation of 4 GiB or more is recorded as `u32::MAX` bytes. Such allocations are far
/// above what an allocator colours, so no tag depends on their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Event {
    /// Where: an access's first byte, or the pointer that the allocator returned.
    pub addr: u64,
    /// Bytes accessed or asked for.
    pub size: u32,
    /// What.
    pub op: Op,
}

/// Why rows cannot be events.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The columns differ in length.
    #[error("columns of different lengths: op {op}, size {size}, addr {addr}")]
    Ragged {
        /// Rows of the operation column.
        op: usize,
        /// Rows of the size column.
        size: usize,
        /// Rows of the address column.
        addr: usize,
    },
    /// No operation has that number.
    #[error("row {row}: operation {op} (the numbers are 0..=5)")]
    UnknownOp {
        /// The row in the batch.
        row: usize,
        /// Its operation.
        op: u8,
    },
    /// The address is not one of a user program.
    #[error("row {row}: address {addr:#x} (the limit is 48 bits)")]
    Address {
        /// The row in the batch.
        row: usize,
        /// Its address.
        addr: u64,
    },
    /// An access of no bytes or of implausibly many.
    #[error("row {row}: an access of {size} bytes (1 to 4096 are possible)")]
    AccessSize {
        /// The row in the batch.
        row: usize,
        /// Its size.
        size: u32,
    },
}

/// Borrowed columns of one length.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    op: &'a [u8],
    size: &'a [u32],
    addr: &'a [u64],
}

impl<'a> Batch<'a> {
    /// Takes columns of equal length.
    pub fn new(op: &'a [u8], size: &'a [u32], addr: &'a [u64]) -> Result<Self, RecordError> {
        if op.len() == size.len() && op.len() == addr.len() {
            Ok(Self { op, size, addr })
        } else {
            Err(RecordError::Ragged {
                op: op.len(),
                size: size.len(),
                addr: addr.len(),
            })
        }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.op.len()
    }

    /// True without events.
    pub fn is_empty(&self) -> bool {
        self.op.is_empty()
    }

    /// The events `first..first + count`, fewer at the end.
    #[must_use]
    pub fn slice(&self, first: usize, count: usize) -> Self {
        let end = self.len().min(first.saturating_add(count));
        let first = first.min(end);
        Self {
            op: &self.op[first..end],
            size: &self.size[first..end],
            addr: &self.addr[first..end],
        }
    }

    /// The event in a row, judged.
    #[inline]
    pub fn get(&self, row: usize) -> Result<Event, RecordError> {
        judge(row, self.op[row], self.size[row], self.addr[row])
    }

    /// The raw columns, not judged: operations, sizes, addresses.
    pub fn as_slices(&self) -> (&'a [u8], &'a [u32], &'a [u64]) {
        (self.op, self.size, self.addr)
    }

    /// The raw rows in order, not judged: (operation, size, address).
    #[inline]
    pub fn columns(&self) -> impl Iterator<Item = (u8, u32, u64)> + use<'a> {
        self.op
            .iter()
            .zip(self.size)
            .zip(self.addr)
            .map(|((&op, &size), &addr)| (op, size, addr))
    }

    /// Every event in order, judged.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Result<Event, RecordError>> + use<'a> {
        let rows = self.op.iter().zip(self.size).zip(self.addr).enumerate();
        rows.map(|(row, ((&op, &size), &addr))| judge(row, op, size, addr))
    }
}

#[inline]
fn judge(row: usize, op: u8, size: u32, addr: u64) -> Result<Event, RecordError> {
    let Some(op) = Op::from_u8(op) else {
        return Err(RecordError::UnknownOp { row, op });
    };
    if addr >= ADDR_LIMIT {
        return Err(RecordError::Address { row, addr });
    }
    if matches!(op, Op::Load | Op::Store) && (size == 0 || size > MAX_ACCESS) {
        return Err(RecordError::AccessSize { row, size });
    }
    Ok(Event { addr, size, op })
}

/// Columns that grow: what an importer fills and a generator makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Operations, [`Op`] as numbers.
    pub op: Vec<u8>,
    /// Bytes accessed or asked for.
    pub size: Vec<u32>,
    /// Addresses.
    pub addr: Vec<u64>,
}

impl Columns {
    /// Adds an event.
    #[inline]
    pub fn push(&mut self, event: Event) {
        self.op.push(event.op as u8);
        self.size.push(event.size);
        self.addr.push(event.addr);
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.op.len()
    }

    /// True without events.
    pub fn is_empty(&self) -> bool {
        self.op.is_empty()
    }

    /// The columns as a batch.
    pub fn as_batch(&self) -> Batch<'_> {
        Batch {
            op: &self.op,
            size: &self.size,
            addr: &self.addr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_sixteen_bytes() {
        assert_eq!(size_of::<Event>(), 16);
    }

    #[test]
    fn operations_and_numbers_correspond() {
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number);
            assert_eq!(Op::from_u8(op as u8), Some(op));
        }
        assert_eq!(Op::from_u8(6), None);
    }

    #[test]
    fn ragged_columns_are_refused() {
        let error = Batch::new(&[0, 1], &[8], &[0, 8]).unwrap_err();
        assert_eq!(
            error,
            RecordError::Ragged {
                op: 2,
                size: 1,
                addr: 2
            }
        );
    }

    #[test]
    fn rows_that_are_no_events_are_refused_with_their_row() {
        let batch = Batch::new(&[0, 9, 1, 0], &[8, 8, 0, 8], &[0, 0, 0, ADDR_LIMIT]).unwrap();
        let errors: Vec<_> = batch.iter().filter_map(Result::err).collect();
        assert_eq!(
            errors,
            [
                RecordError::UnknownOp { row: 1, op: 9 },
                RecordError::AccessSize { row: 2, size: 0 },
                RecordError::Address {
                    row: 3,
                    addr: ADDR_LIMIT
                },
            ]
        );
    }

    #[test]
    fn slice_clamps_at_the_end() {
        let batch = Batch::new(&[0; 5], &[1; 5], &[0; 5]).unwrap();
        assert_eq!(batch.slice(3, 10).len(), 2);
        assert_eq!(batch.slice(9, 1).len(), 0);
        assert_eq!(batch.slice(1, usize::MAX).len(), 4);
    }
}
