//! Processes, what they map, and what the kernel does with it: the machine's methods of memory management.

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tagvisor_arch::{Tag, Tcf, Va};
use tagvisor_host::{Advice, Backing, FileId, FileKind, MapSpec, MmId};

use super::{Machine, Pagemap, pagemap, parse_prot, unknown};
use crate::arrays;
use crate::errors::Refusal;

#[pymethods]
impl Machine {
    /// A new process; its number.
    fn create_process(&self, py: Python<'_>, name: &str) -> PyResult<u32> {
        self.with(py, |machine| Ok(machine.create_process(name).0))
    }

    /// `fork`: the child's number.
    fn fork(&self, py: Python<'_>, mm: u32, name: &str) -> PyResult<u32> {
        self.with(py, |machine| Ok(machine.fork(MmId(mm), name).0))
    }

    /// The process ends.
    fn exit_mm(&self, py: Python<'_>, mm: u32) -> PyResult<()> {
        self.with(py, |machine| {
            machine.exit(MmId(mm));
            Ok(())
        })
    }

    /// A file to map; its number. `kind` is 'shmem', 'ramfs' or 'disk'.
    fn create_file(&self, py: Python<'_>, kind: &str, pages: u64) -> PyResult<u32> {
        let kind = match kind {
            "shmem" => FileKind::Shmem,
            "ramfs" => FileKind::Ramfs,
            "disk" => FileKind::Disk,
            other => return Err(unknown("kind", other, "'shmem', 'ramfs' or 'disk'")),
        };
        self.with(py, |machine| Ok(machine.create_file(kind, pages).0))
    }

    /// `ftruncate` to so many pages.
    fn file_truncate(&self, py: Python<'_>, file: u32, pages: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine.truncate(FileId(file), pages);
            Ok(())
        })
    }

    /// `mmap`; the address. `prot` is letters of `rwm`; `file` goes with the backing 'file'.
    #[allow(clippy::too_many_arguments)] // mmap's
    #[pyo3(signature = (mm, pages, backing, shared, prot, fixed, file=None, pgoff=0))]
    fn mmap(
        &self,
        py: Python<'_>,
        mm: u32,
        pages: u64,
        backing: &str,
        shared: bool,
        prot: &str,
        fixed: Option<u64>,
        file: Option<u32>,
        pgoff: u64,
    ) -> PyResult<u64> {
        let spec = map_spec(pages, backing, shared, prot, file, pgoff)?;
        self.with(py, |machine| {
            let mapped = machine.mmap(MmId(mm), spec, fixed.map(Va));
            Ok(mapped.map_err(Refusal::of("mmap"))?.0)
        })
    }

    /// `munmap`.
    fn munmap(&self, py: Python<'_>, mm: u32, address: u64, pages: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine
                .munmap(MmId(mm), Va(address), pages)
                .map_err(Refusal::of("munmap"))
        })
    }

    /// `mprotect`. `prot` is letters of `rwm`.
    fn mprotect(&self, py: Python<'_>, mm: u32, address: u64, pages: u64, prot: &str) -> PyResult<()> {
        let prot = parse_prot(prot)?;
        self.with(py, |machine| {
            machine
                .mprotect(MmId(mm), Va(address), pages, prot)
                .map_err(Refusal::of("mprotect"))
        })
    }

    /// `madvise`. `advice` is the name without `MADV_`, in lower case.
    fn madvise(&self, py: Python<'_>, mm: u32, address: u64, pages: u64, advice: &str) -> PyResult<()> {
        let Some(advice) = Advice::parse(advice) else {
            return Err(unknown(
                "advice",
                advice,
                "the name of an advice in lower case, such as 'pageout'",
            ));
        };
        self.with(py, |machine| {
            let advised = machine.madvise(MmId(mm), Va(address), pages, advice);
            advised.map_err(Refusal::of("madvise"))
        })
    }

    /// Writes `/proc/sys/vm/nr_hugepages`; how many huge pages of 2 MiB there are then.
    fn set_nr_hugepages(&self, py: Python<'_>, pages: u64) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.set_nr_hugepages(pages)))
    }

    /// `memory.reclaim` of the control group; how many pages went.
    fn memcg_reclaim(&self, py: Python<'_>, pages: u64) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.memcg_reclaim(pages)))
    }

    /// `/sys/kernel/mm/ksm/use_zero_pages`.
    fn set_ksm_use_zero_pages(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        self.with(py, |machine| {
            machine.set_ksm_use_zero_pages(on);
            Ok(())
        })
    }

    /// `/sys/kernel/mm/transparent_hugepage/`: is `enabled` 'madvise', and `use_zero_page` 1?
    fn set_transparent_hugepage(&self, py: Python<'_>, madvise: bool, use_zero_page: bool) -> PyResult<()> {
        self.with(py, |machine| {
            machine.set_transparent_hugepage(madvise, use_zero_page);
            Ok(())
        })
    }

    /// `move_pages` of one page.
    fn migrate(&self, py: Python<'_>, mm: u32, address: u64) -> PyResult<()> {
        self.with(py, |machine| {
            let moved = machine.migrate_page(MmId(mm), Va(address));
            moved.map_err(Refusal::of("move_pages"))
        })
    }

    /// `ksmd` runs until nothing is left to merge; how many pages were.
    fn ksm_run(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.ksm_run()))
    }

    /// `prctl(PR_SET_TAGGED_ADDR_CTRL)`: 'none', 'sync' or 'async'.
    fn set_tagged_addr_ctrl(&self, py: Python<'_>, mm: u32, tcf: &str) -> PyResult<()> {
        let tcf = match tcf {
            "none" => Tcf::None,
            "sync" => Tcf::Sync,
            "async" => Tcf::Async,
            other => return Err(unknown("tcf", other, "'none', 'sync' or 'async'")),
        };
        self.with(py, |machine| {
            machine.set_tagged_addr_ctrl(MmId(mm), tcf);
            Ok(())
        })
    }

    /// How many `SEGV_MTEAERR` the process got since it was asked last.
    fn take_async_tag_faults(&self, py: Python<'_>, mm: u32) -> PyResult<u32> {
        self.with(py, |machine| Ok(machine.take_async_tag_faults(MmId(mm))))
    }

    /// Did a `SIGBUS` for a poisoned page come that no access has met?
    fn take_sigbus(&self, py: Python<'_>, mm: u32) -> PyResult<bool> {
        self.with(py, |machine| Ok(machine.take_sigbus(MmId(mm))))
    }

    /// The kernel reads user memory; how many bytes.
    fn syscall_read(&self, py: Python<'_>, mm: u32, pointer: u64, size: u64) -> PyResult<u64> {
        self.with(py, |machine| {
            let read = machine.syscall_read(MmId(mm), Va(pointer), size);
            read.map_err(Refusal::of("write"))
        })
    }

    /// `PTRACE_PEEKMTETAGS`: as many tags as could be read.
    fn ptrace_peek_tags<'py>(
        &self,
        py: Python<'py>,
        mm: u32,
        address: u64,
        count: u32,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tags = self.with(py, |machine| {
            let tags = machine.ptrace_peek_tags(MmId(mm), Va(address), count);
            tags.map_err(Refusal::of("ptrace(PTRACE_PEEKMTETAGS)"))
        })?;
        Ok(PyArray1::from_vec(py, tags))
    }

    /// `PTRACE_POKEMTETAGS`: how many tags were written.
    fn ptrace_poke_tags(&self, py: Python<'_>, mm: u32, address: u64, tags: PyReadonlyArray1<'_, u8>) -> PyResult<u64> {
        let tags = tags.as_slice()?.to_vec();
        self.with(py, |machine| {
            let done = machine.ptrace_poke_tags(MmId(mm), Va(address), tags);
            done.map_err(Refusal::of("ptrace(PTRACE_POKEMTETAGS)"))
        })
    }

    /// A process's load of 1, 2, 4 or 8 bytes.
    fn user_load(&self, py: Python<'_>, mm: u32, pointer: u64, size: u8) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.user_load(MmId(mm), Va(pointer), size)?))
    }

    /// A process's store of 1, 2, 4 or 8 bytes.
    fn user_store(&self, py: Python<'_>, mm: u32, pointer: u64, size: u8, value: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine.user_store(MmId(mm), Va(pointer), size, value)?;
            Ok(())
        })
    }

    /// A process's loads of a whole page.
    fn user_read_page<'py>(&self, py: Python<'py>, mm: u32, page: u64) -> PyResult<Bound<'py, PyBytes>> {
        let data = self.with(py, |machine| Ok(machine.user_read_page(MmId(mm), Va(page))?))?;
        Ok(PyBytes::new(py, &data))
    }

    /// A process's stores of a whole page.
    fn user_write_page(&self, py: Python<'_>, mm: u32, page: u64, data: &[u8]) -> PyResult<()> {
        self.with(py, |machine| {
            machine.user_write_page(MmId(mm), Va(page), data)?;
            Ok(())
        })
    }

    /// `UFFDIO_REGISTER` for missing pages.
    fn uffd_register(&self, py: Python<'_>, mm: u32, address: u64, pages: u64) -> PyResult<()> {
        self.with(py, |machine| {
            let registered = machine.uffd_register(MmId(mm), Va(address), pages);
            registered.map_err(Refusal::of("ioctl(UFFDIO_REGISTER)"))
        })
    }

    /// Addresses of pages that were touched and are missing.
    fn uffd_read(&self, py: Python<'_>, mm: u32) -> PyResult<Vec<u64>> {
        self.with(py, |machine| {
            Ok(machine.uffd_read(MmId(mm)).into_iter().map(|va| va.0).collect())
        })
    }

    /// `UFFDIO_COPY` of a page; what `data` lacks is zero.
    fn uffd_copy(&self, py: Python<'_>, mm: u32, page: u64, data: &[u8]) -> PyResult<()> {
        self.with(py, |machine| {
            let copied = machine.uffd_copy(MmId(mm), Va(page), data);
            copied.map_err(Refusal::of("ioctl(UFFDIO_COPY)"))
        })
    }

    /// `UFFDIO_MOVE` of a page to where it is missing.
    fn uffd_move(&self, py: Python<'_>, mm: u32, page: u64, source: u64) -> PyResult<()> {
        self.with(py, |machine| {
            let moved = machine.uffd_move(MmId(mm), Va(page), Va(source));
            moved.map_err(Refusal::of("ioctl(UFFDIO_MOVE)"))
        })
    }

    /// What every tag read of a page must return, as the ledger has it.
    fn ledger_tags<'py>(&self, py: Python<'py>, mm: u32, page: u64) -> PyResult<Option<Bound<'py, PyArray1<u8>>>> {
        let tags = self.with(py, |machine| Ok(machine.ledger_tags(MmId(mm), Va(page))))?;
        Ok(tags.map(|tags| arrays::to_array(py, &tags)))
    }

    /// A page came here by migration: its owner wrote those tags on another host.
    fn ledger_adopt(&self, py: Python<'_>, mm: u32, page: u64, tags: PyReadonlyArray1<'_, u8>) -> PyResult<()> {
        let tags = arrays::from_array("tags", &tags)?;
        self.with(py, |machine| {
            machine.ledger_adopt(MmId(mm), Va(page), &tags);
            Ok(())
        })
    }

    /// A process's `LDG`.
    fn user_ldg(&self, py: Python<'_>, mm: u32, pointer: u64) -> PyResult<u8> {
        self.with(py, |machine| Ok(machine.user_ldg(MmId(mm), Va(pointer))?.get()))
    }

    /// A process's `STG`.
    fn user_stg(&self, py: Python<'_>, mm: u32, pointer: u64, tag: u8) -> PyResult<()> {
        self.with(py, |machine| {
            machine.user_stg(MmId(mm), Va(pointer), Tag::new(tag))?;
            Ok(())
        })
    }

    /// `LDG` of every granule of a process's page: 256 tags.
    fn user_tags<'py>(&self, py: Python<'py>, mm: u32, page: u64) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tags = self.with(py, |machine| Ok(machine.user_tags(MmId(mm), Va(page))?))?;
        Ok(arrays::to_array(py, &tags))
    }

    /// `STG` of every granule of a process's page.
    fn user_fill_tags(&self, py: Python<'_>, mm: u32, page: u64, tags: PyReadonlyArray1<'_, u8>) -> PyResult<()> {
        let tags = arrays::from_array("tags", &tags)?;
        self.with(py, |machine| {
            machine.user_fill_tags(MmId(mm), Va(page), &tags)?;
            Ok(())
        })
    }

    /// What a page table holds for a page.
    fn pagemap(&self, py: Python<'_>, mm: u32, address: u64) -> PyResult<Pagemap> {
        self.with(py, |machine| Ok(pagemap(machine.pagemap(MmId(mm), Va(address)))))
    }

    /// Page out, and drop from the swap cache; what the page table holds then.
    fn evict(&self, py: Python<'_>, mm: u32, address: u64) -> PyResult<Pagemap> {
        self.with(py, |machine| {
            let entry = machine
                .evict(MmId(mm), Va(address))
                .map_err(Refusal::of("madvise(MADV_PAGEOUT)"))?;
            Ok(pagemap(entry))
        })
    }

    /// How many pages may be resident at once.
    fn set_memory_limit(&self, py: Python<'_>, pages: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine.set_memory_limit(pages);
            Ok(())
        })
    }
}

/// What `mmap` is asked for, but where.
pub(crate) fn map_spec(
    pages: u64,
    backing: &str,
    shared: bool,
    prot: &str,
    file: Option<u32>,
    pgoff: u64,
) -> PyResult<MapSpec> {
    let backing = match (backing, file) {
        ("anon", None) => Backing::Anon,
        ("file", Some(file)) => Backing::File(FileId(file)),
        ("zone-device", None) => Backing::ZoneDevice,
        ("mmio", None) => Backing::Mmio,
        ("hugetlb", None) => Backing::Hugetlb,
        (other, _) => {
            let expected = "'anon', 'hugetlb', 'zone-device' or 'mmio', or 'file' with a file";
            return Err(unknown("backing", other, expected));
        }
    };
    Ok(MapSpec {
        pages,
        backing,
        pgoff,
        prot: parse_prot(prot)?,
        shared,
    })
}
