//! The knobs of KVM: K18 to K31, and what no row of the matrix names.
//!
//! **Models** stage-2 faults, memslots, `KVM_ARM_MTE_COPY_TAGS`, capabilities and exits.
//!
//! **Keeps**: a knob is written once, with its kernel function, values and source.

macro_rules! kvm_knobs {
    ($next:ident $($more:ident)*; $($before:tt)*) => { $next! { $($more)*; $($before)*
    /// How `sanitise_mte_tags` (called by `user_mem_abort` before mapping) initialises an unflagged page.
    "K18" sanitise: Sanitise, "stage-2 sanitise protocol",
    "arch/arm64/kvm/mmu.c; series v10 to v17, ea7fc1bb1cd1 (v5.14), d77e59a8fccd (v6.2), 2986a6257405 (v7.2)" {
        /// `test_and_set_bit(PG_mte_tagged)`, then clear (v10 to v12): a second fault may map before the clear.
        TestAndSet = "test-and-set",
        /// Recheck, clear, flag under the global spinlock of K4 (v14, v15).
        GlobalLock = "global-lock",
        /// Test, clear, set, no lock (v13, v16, 5.14 to 6.1): two faults may both clear.
        TestClearSet = "test-clear-set",
        /// `PG_mte_lock` taken first, the loser waits for `PG_mte_tagged` (6.2 and later).
        Lock = "lock",
        /// The same, but the shared zero page is left alone (7.2; seen in 7.3).
        LockSkipZero = "lock-skip-zero",
    }
    /// Whether a stage-2 permission fault sanitises too. Not doing so overlooks the fault that maps a block where a page was
    /// (logging over, the VMM has a huge page): nobody has looked at the tags of the other 511.
    "K19" sanitise_permission: SanitisePermission, "sanitise on a permission fault",
    "arch/arm64/kvm/mmu.c (user_mem_abort), v10 to 7.3" {
        /// No: the page was sanitised when it was mapped (every version; the leak seen on 6.1.192, 6.12.107, 7.3.4).
        No = "no",
        /// Yes: counterfactual.
        Yes = "yes",
    }
    /// How much of a page of hugetlb, whose head's flag speaks for all of it, `sanitise_mte_tags` clears when KVM maps one
    /// page of it (writes are logged, or addresses are not aligned alike).
    "sanitise_size" sanitise_size: SanitiseSize, "sanitised of a huge page mapped by pages",
    "arch/arm64/kvm/mmu.c (sanitise_mte_tags), v6.13; the leak recorded on 7.3.4" {
        /// What is mapped (6.13 and later): the rest passes for initialised.
        Mapped = "mapped",
        /// All that the flag speaks for: counterfactual.
        Folio = "folio",
    }
    /// What KVM's `change_pte` notifier (`kvm_set_spte_gfn`) does with the page that KSM or copy-on-write put in place of
    /// a mapped one.
    "K20" change_pte: ChangePte, "change_pte notifier",
    "arch/arm64/kvm/mmu.c (kvm_set_spte_gfn); series v12, d77e59a8fccd (v6.2), f3b65bbaed7c (v6.10)" {
        /// Maps it read-only as it is (v10, v11): no later fault will sanitise it.
        Map = "map",
        /// Sanitises it, then maps it read-only (v12 to 6.1).
        Sanitise = "sanitise",
        /// Maps it if it is flagged, else leaves it to the next fault (6.2 to 6.9).
        Defer = "defer",
        /// There is no such notifier (6.10 and later).
        None = "none",
    }
    /// Whether an MTE VM may be backed by a `VM_SHARED` mapping.
    "K21" shared_backing: SharedBacking, "MAP_SHARED behind an MTE VM",
    "arch/arm64/kvm/mmu.c; series v16, ea7fc1bb1cd1 (v5.14), c911f0d46879 and d89585fbb308 (v6.2)" {
        /// Allowed (v10 to v15 of the series; 6.2 and later).
        Allowed = "allowed",
        /// Refused where K23 checks: slot -EINVAL, fault -EFAULT (5.14 to 6.1, no tag lock existed).
        Refused = "refused",
    }
    /// What becomes of memory without tag storage (`ZONE_DEVICE`, device pfns, offline pfns) behind an MTE VM.
    "K22" untaggable: Untaggable, "untaggable memory",
    "arch/arm64/kvm/mmu.c (kvm_is_device_pfn, sanitise_mte_tags, kvm_vma_mte_allowed); series v10, v11, v5.14, \
     d89585fbb308 (v6.2), v6.17; mails 20241028094014.2596619-1, 20250110110023.2963795-1" {
        /// Any pfn with a `struct page` is mapped Normal Write-Back and flagged (v10 series).
        Cacheable = "cacheable",
        /// Memory without `struct page` is mapped Device, anything else offline is -EFAULT (v11 to v17).
        RefuseOffline = "refuse-offline",
        /// `!pfn_is_map_memory` is mapped Device-nGnRE; anything else offline is -EFAULT (5.14 to 6.1).
        Device = "device",
        /// A VMA without `VM_MTE_ALLOWED` is refused, but at fault time `!pfn_is_map_memory` is mapped Device first
        /// (6.2 to 6.16).
        DeviceElseRefuse = "device-else-refuse",
        /// As `device-else-refuse`; but a VM with `KVM_CAP_ARM_MTE_PERM` has the refused memory mapped `NoTagAccess`
        /// (`FEAT_MTE_PERM`), and an access to its tags exits (proposed for 6.14, never merged).
        NoTagAccess = "no-tag-access",
        /// A VMA without `VM_MTE_ALLOWED` is refused; only device memory without `struct page` is mapped Device
        /// (6.17 and later, as seen in 7.3).
        Refuse = "refuse",
    }
    /// Where the K21 and K22 rules are applied (`kvm_arch_prepare_memory_region`, `user_mem_abort`).
    "K23" checked_at: CheckedAt, "rules checked",
    "arch/arm64/kvm/mmu.c; series v10, v11, v16, v5.14, v6.2" {
        /// Nowhere (v10 series).
        Never = "never",
        /// Only when the memslot is added: what the slot was then is believed for ever (proposed on the list).
        Slot = "slot",
        /// Only at fault time (v11 to v15): the memory under a live slot may have been replaced.
        Fault = "fault",
        /// Both (v16, 5.14 and later).
        SlotAndFault = "slot-and-fault",
    }
    /// What protects the facts that `user_mem_abort` takes from the VMA against a VMM that maps something else there
    /// meanwhile: when the notifier sequence is sampled.
    "K24" fault_snapshot: FaultSnapshot, "mmu_seq and VMA facts",
    "arch/arm64/kvm/mmu.c (user_mem_abort); d89585fbb308 (v6.2), 8c2e8ac8ad4b and 13ec9308a857 (v6.3; 6.1.27)" {
        /// Facts under `mmap_lock`, the sequence sampled after it was dropped (v10 to 6.1.26).
        SeqAfterUnlock = "seq-after-unlock",
        /// The same, and `VM_MTE_ALLOWED` is read from the VMA after the page was brought in (6.2).
        VmaAfterUnlock = "vma-after-unlock",
        /// Facts and sequence under `mmap_lock` (6.3 and later; 6.1.27).
        UnderMmapLock = "under-mmap-lock",
    }
    /// How `KVM_ARM_MTE_COPY_TAGS` to the guest flags the page, and what it leaves of a page whose tags it could read only
    /// in part.
    "K25" copy_tags_flag: CopyTagsFlag, "COPY_TAGS to the guest: flag",
    "arch/arm64/kvm/guest.c (kvm_vm_ioctl_mte_copy_tags); series v10 to v17, f0376edb1ddc and its fix before v5.14, \
     d77e59a8fccd (v6.2-rc1), c3b37c2d77a2 (v6.2-rc5)" {
        /// Not at all (v10 to v12): the guest's first fault clears the tags again.
        NoFlag = "no-flag",
        /// After the page's reference was dropped (v16, v17): by then it may be another owner's page.
        AfterRelease = "after-release",
        /// After a whole page was copied, no lock; a part copied stays, unflagged (v13, 5.14 to 6.1).
        AfterCopy = "after-copy",
        /// `PG_mte_lock`, copy, flag always; a part copied stays mixed with old tags (6.2-rc1 to rc4).
        LockMixed = "lock-mixed",
        /// `PG_mte_lock`, copy, flag always; after a part the page's tags are cleared (6.2 and later).
        LockClear = "lock-clear",
    }
    /// What `KVM_ARM_MTE_COPY_TAGS` from the guest answers for a page that is not flagged.
    "K26" copy_tags_unflagged: CopyTagsUnflagged, "COPY_TAGS from an unflagged page",
    "arch/arm64/kvm/guest.c; series v10, v13" {
        /// Whatever tags lie in the frame (v10 to v12).
        Raw = "raw",
        /// Zeros (v13 and later).
        Zeros = "zeros",
    }
    /// What `KVM_ARM_MTE_COPY_TAGS` to the guest does while a slot of the VM logs writes. The page becomes dirty, the
    /// slot's bitmap never.
    "K27" copy_tags_logging: CopyTagsLogging, "COPY_TAGS while logging dirty pages",
    "arch/arm64/kvm/guest.c; e0b7de4fd18c (v6.12; not in 6.1.192)" {
        /// Succeeds, and the log knows nothing of it (5.14 to 6.11).
        Unlogged = "unlogged",
        /// -EBUSY (6.12 and later).
        Busy = "busy",
    }
    /// What `KVM_ARM_MTE_COPY_TAGS` does with memory that has no tags (`ZONE_DEVICE`).
    "K28" copy_tags_offline: CopyTagsOffline, "COPY_TAGS on ZONE_DEVICE",
    "arch/arm64/kvm/guest.c; series v10, v13, ae41d7dbaeb4 (v6.12)" {
        /// Reads and writes tags that are not there (v10 to v12).
        Access = "access",
        /// -EFAULT, and the page's reference is never dropped (5.14 to 6.11).
        FaultLeak = "fault-leak",
        /// -EFAULT (6.12 and later).
        Fault = "fault",
    }
    /// Whether `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)` holds `kvm->lock` between its check that no vCPU exists and the flag. A
    /// vCPU made in between has no `HCR_EL2.ATA` in a VM whose ID registers tell of MTE.
    "K29" cap_lock: CapLock, "MTE capability against vCPU creation",
    "arch/arm64/kvm/arm.c (kvm_vm_ioctl_enable_cap); mail 20210729160036.20433-1, v5.14" {
        /// No (the series, 5.14 before its release).
        Unlocked = "unlocked",
        /// Yes (5.14 and later).
        KvmLock = "kvm-lock",
    }
    /// What a `guest_memfd` slot of an MTE VM is.
    "K30" guest_memfd: GuestMemfd, "guest_memfd behind an MTE VM",
    "arch/arm64/kvm/mmu.c (gmem_abort); v6.18, 679d7201c1f0 (v7.2)" {
        /// There is none on arm64: -EINVAL (up to 6.17).
        Absent = "absent",
        /// Accepted, and mapped without `sanitise_mte_tags` (6.18 to 7.1).
        Unsanitised = "unsanitised",
        /// -EINVAL (7.2 and later).
        Refused = "refused",
    }
    /// What a guest without MTE meets when it reads `GMID_EL1`.
    "K31" mte_off_trap: MteOffTrap, "MTE registers when MTE is off",
    "arch/arm64/kvm (HCR_EL2.TID5, sys_regs.c); f35abcbb8a08, 5ee8ad69da07 (v7.0)" {
        /// `GMID_EL1` answers: only the registers of the table are undefined (5.14 to 6.19).
        Visible = "visible",
        /// Undefined, by `HCR_EL2.TID5` (7.0 and later).
        Trapped = "trapped",
    }
    /// How a stage-2 fault takes `kvm->mmu_lock`: alone, or beside other faults.
    "mmu_lock" fault_lock: FaultLock, "mmu_lock on a stage-2 fault",
    "arch/arm64/kvm/mmu.c (user_mem_abort); v6.2" {
        /// Spinlock, later rwlock for write: one fault of a VM at a time (up to 6.1).
        Exclusive = "exclusive",
        /// Read lock: faults of one VM run in parallel (6.2 and later).
        Read = "read",
    }
    /// Whether a VMM can have blocks split as soon as a slot logs writes (`KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE`); without
    /// it a block is broken by the first write fault in it.
    "eager_split" eager_split: EagerSplit, "eager split of blocks",
    "arch/arm64/kvm/mmu.c (kvm_mmu_split_huge_pages); 2f440b72e852 (v6.5)" {
        /// No (up to 6.4).
        Absent = "absent",
        /// Yes, off until asked for (6.5 and later).
        Present = "present",
    }
    /// Which failed stage-2 faults tell the VMM where: `KVM_EXIT_MEMORY_FAULT` beside the error of `KVM_RUN`
    /// (`kvm_prepare_memory_fault_exit`, generic since 6.8).
    "memory_fault_exit" memory_fault_exit: MemoryFaultExit, "KVM_EXIT_MEMORY_FAULT",
    "arch/arm64/kvm/mmu.c (gmem_abort, v6.18); mail 20240809205158.1340255-4; none recorded of user_mem_abort up to 7.3.4" {
        /// None (up to 6.17).
        None = "none",
        /// Those of `guest_memfd` memory (6.18 and later).
        Gmem = "gmem",
        /// Those of any memory (proposed in August 2024, not merged).
        All = "all",
    }
    /// Whether the kernel has `KVM_CAP_ARM_MTE`.
    "cap_arm_mte" cap_arm_mte: CapArmMte, "KVM_CAP_ARM_MTE",
    "arch/arm64/kvm/arm.c; 673638f434ee (v5.14), series v10" {
        /// No: MTE is the host's alone (5.10 to 5.13).
        Absent = "absent",
        /// Yes (the series; 5.14 and later).
        Present = "present",
    }
    /// Whether `KVM_ARM_MTE_COPY_TAGS` refuses a length whose result would not fit an int.
    "copy_tags_length" copy_tags_length: CopyTagsLength, "COPY_TAGS length above INT_MAX",
    "arch/arm64/kvm/guest.c; 2def950c63e3 (v6.4; not in 6.1.192)" {
        /// No: it copies what is there (5.14 to 6.3).
        Unchecked = "unchecked",
        /// -EINVAL (6.4 and later).
        IntMax = "int-max",
    }
    } };
}

pub(super) use kvm_knobs;
