//! The host as its users see it: whole operations, judged by the ledger and by what recorded kernels answered.

mod blocks;
mod common;
mod core_dump;
mod disk_file;
mod founding_thread;
mod guest_memfd;
mod hugetlb;
mod ksm;
mod kvm;
mod memory;
mod memory_fault;
mod migrate;
mod no_tag_access;
mod random;
mod random_mm;
mod registers;
mod save_failure;
mod swap_devices;
mod thp;
mod uffd_move;
mod userfault;
mod willneed;
mod zswap;
