//! Blocks of accesses: the fast way through the engine.
//!
//! Models a run of simple accesses (inside one page, no heap event between them) as what the host decides without its real
//! path: TLB hits whose tags match. Where they stay on a page, its tags are looked up once; where they go all over memory,
//! the block goes in short passes over its rows (pointers, translations, tags), so that the processor overlaps the cache
//! misses of many rows, which is most of what random accesses cost.
//!
//! Leaves out nothing: what is no hit takes the engine's way for one access.
//!
//! Invariant: a block leaves the engine as its accesses one by one would.

use super::{Engine, GUEST_BASE, PIECE, Stop};
use crate::layout::Placed;
use crate::record::{ADDR_LIMIT, Batch, Op};
use tagvisor_arch::{GRANULE_SIZE, PAGE_SHIFT, PAGE_SIZE, Tag, Va};

/// Accesses of a block. Enough to overlap misses, few enough that the passes' arrays stay in the first cache.
pub(super) const BLOCK: usize = 512;

impl Engine {
    /// Accesses that are all simple, at most [`BLOCK`].
    pub(super) fn block(&mut self, first: u64, batch: &Batch<'_>, tally: &mut Tally) -> Result<(), Stop> {
        /// Accesses to a page on average from which looking each page up once is the cheaper way.
        const STAYS: u64 = 4;
        let (_, _, addr) = batch.as_slices();
        let moves: u64 = addr
            .windows(2)
            .map(|two| u64::from((two[0] ^ two[1]) >> PAGE_SHIFT != 0))
            .sum();
        if moves * STAYS < addr.len() as u64 {
            self.page_by_page(first, batch, tally)
        } else {
            self.scattered(first, batch, tally)
        }
    }

    /// Accesses that stay on a page for a while.
    fn page_by_page(&mut self, first: u64, batch: &Batch<'_>, tally: &mut Tally) -> Result<(), Stop> {
        let (_, _, addr) = batch.as_slices();
        let mut done = 0;
        while done < addr.len() {
            let vpn = addr[done] >> PAGE_SHIFT;
            let placed = self.layout.page(vpn)?;
            let hits = self.hits_on(placed, vpn, &batch.slice(done, usize::MAX));
            tally.count(&batch.slice(done, hits));
            done += hits;
            if done < addr.len() && addr[done] >> PAGE_SHIFT == vpn {
                self.one(first, batch, done, tally)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// How many of the accesses from the first on are hits on the program's page `vpn`, which is `placed` so.
    fn hits_on(&self, placed: Placed, vpn: u64, batch: &Batch<'_>) -> usize {
        let address = Va(pointer(placed.guest(), 0, Tag::ZERO));
        let Some(page) = self.machine.guest_page(self.vcpu, address) else {
            return 0;
        };
        let passes = |(op, size, addr): (u8, u32, u64)| {
            let tag = self.layout.pointer_tag(placed, addr);
            addr >> PAGE_SHIFT == vpn && page.passes(addr % PAGE_SIZE, size, tag, op != Op::Load as u8)
        };
        batch.columns().take_while(|row| passes(*row)).count()
    }

    /// Accesses all over memory.
    fn scattered(&mut self, first: u64, batch: &Batch<'_>, tally: &mut Tally) -> Result<(), Stop> {
        let (op, size, addr) = batch.as_slices();
        let mut pointers = [0; BLOCK];
        let mut placed = 0;
        let mut full = None;
        for (into, &addr) in pointers.iter_mut().zip(addr) {
            match self.layout.page(addr >> PAGE_SHIFT) {
                Ok(page) => *into = pointer(page.guest(), addr, self.layout.pointer_tag(page, addr)),
                Err(error) => {
                    full = Some(error);
                    break;
                }
            }
            placed += 1;
        }
        let mut done = 0;
        while done < placed {
            let rest = done..placed;
            let (pointers, size, op) = (&pointers[rest.clone()], &size[rest.clone()], &op[rest]);
            let hits = self.machine.guest_check_hits(self.vcpu, pointers, size, op);
            tally.count(&batch.slice(done, hits));
            done += hits;
            if done < placed {
                self.one(first, batch, done, tally)?;
                done += 1;
            }
        }
        full.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The access in row `row`, which is no hit.
    fn one(&mut self, first: u64, batch: &Batch<'_>, row: usize, tally: &mut Tally) -> Result<(), Stop> {
        let access = batch.get(row).map_err(Stop::Record)?;
        self.access_across(first + tally.rows, access)?;
        tally.count(&batch.slice(row, 1));
        Ok(())
    }
}

/// Zero for an access inside one page that the host checks in one piece: each term has a bit set where it is not. There is no
/// branch and no comparison in it, so a loop over it becomes vector instructions.
#[inline]
fn not_simple(op: u8, size: u32, addr: u64) -> u32 {
    const _: () = assert!(PIECE.is_power_of_two() && ADDR_LIMIT.is_power_of_two());
    let last = size.wrapping_sub(1);
    let last_in_page = (addr as u32 % PAGE_SIZE as u32).wrapping_add(last);
    (u32::from(op) & !u32::from(Op::Store as u8))
        | (last & !(PIECE as u32 - 1))
        | (last_in_page & !(PAGE_SIZE as u32 - 1))
        | (addr >> ADDR_LIMIT.trailing_zeros()) as u32
}

/// The simple accesses that a batch begins with.
#[inline]
pub(super) fn simple_accesses<'a>(batch: &Batch<'a>) -> Batch<'a> {
    let bad = |(op, size, addr)| not_simple(op, size, addr);
    // Heap events come in rows too; a block is not looked through for each of them.
    let none = batch.columns().next().is_none_or(|first| bad(first) != 0);
    if !none && batch.columns().fold(0, |all, row| all | bad(row)) == 0 {
        return *batch;
    }
    let first_other = batch.columns().position(|row| bad(row) != 0);
    batch.slice(0, first_other.unwrap_or(0))
}

/// What one call of the loop has done.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) loads: u64,
    pub(super) stores: u64,
    pub(super) tag_checks: u64,
}

impl Tally {
    /// Counts accesses that were made.
    #[inline]
    pub(super) fn count(&mut self, accesses: &Batch<'_>) {
        let (mut stores, mut crossed) = (0, 0);
        for (op, size, addr) in accesses.columns() {
            // Granules after the first: an access has fewer than 2^32 bytes, a block few accesses.
            crossed += (addr % GRANULE_SIZE + u64::from(size) - 1) / GRANULE_SIZE;
            stores += u64::from(op);
        }
        let rows = accesses.len() as u64;
        let tag_checks = rows + crossed;
        self.rows += rows;
        self.stores += stores;
        self.loads += rows - stores;
        self.tag_checks += tag_checks;
    }
}

/// The guest's pointer to the program's `addr`, which lies in guest page `page`.
#[inline]
pub(super) fn pointer(page: u32, addr: u64, tag: Tag) -> u64 {
    let address = GUEST_BASE + (u64::from(page) << PAGE_SHIFT) + addr % PAGE_SIZE;
    address | (u64::from(tag.get()) << 56)
}
