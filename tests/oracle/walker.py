"""The VMSAv8-64 translation of EL1&0: stage 1, stage 2, their combination, and PAR_EL1.

Models data accesses and AT instructions over a memory that is a dictionary from physical address
to 64-bit word (a missing word is 0), for an implementation with 52-bit physical addresses,
FEAT_LVA, LPA, LPA2, TTST, XNX, HAFDBS and MTE2:

* stage 1 by TTBR0_EL1 and TTBR1_EL1 under TCR_EL1 (T0SZ, T1SZ, TG0, TG1, EPD, TBI, HPD, SH for DS,
  IPS, DS, HA, HD) and MAIR_EL1; switched off by SCTLR_EL1.M or HCR_EL2.DC;
* stage 2 by VTTBR_EL2 under VTCR_EL2 (T0SZ, SL0, SL2, SH0 for DS, TG0, PS, DS, HA, HD) and HCR_EL2
  (VM, PTW, DC, FWB, DCT), concatenated start tables included;
* stage-2 translation of stage-1 table reads, and of the write that sets a stage-1 flag;
* hardware updates of the access flag and, outside AT, of the dirty state.

Leaves out: instruction fetches (so UXN, PXN, XN and FEAT_XNX have nothing to say), PAN, E0PD, NFD,
the Contiguous and nT bits, SCTLR_EL1.C = 0 and HCR_EL2.CD (caches are on), VTCR_EL2.NSA and NSW,
E2H and TGE, AArch32, big-endian tables, TLBs, FEAT_D128, FEAT_MTE_PERM, permission overlays.

Choices where the architecture leaves one: a TxSZ outside its limits, an invalid SL0 and an
inconsistent pair of the two are a level-0 Translation fault; a reserved granule is 4K; IPS or PS of
7 is 52 bits; a Permission or Alignment fault does not set an access flag; AT sets access flags but
no dirty state; a tag store to Device memory does not fault. What the two stages make of a memory
type is in `oracle.attributes`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.oracle.attributes import (
    ATTR_TAGGED,
    ATTR_WRITE_BACK,
    NON_SHAREABLE,
    OUTER_SHAREABLE,
    Attributes,
    combine_stage2,
    finish,
    mair_attribute,
)
from tests.oracle.words import MASK64, Memory, Registers, bit, bits

PA_BITS = 52
OUTPUT_BITS = (32, 36, 40, 42, 44, 48, 52, 52)
GRANULE_4K, GRANULE_16K, GRANULE_64K = 12, 14, 16
GRANULE_TG0 = (GRANULE_4K, GRANULE_64K, GRANULE_16K, GRANULE_4K)
GRANULE_TG1 = (GRANULE_4K, GRANULE_16K, GRANULE_4K, GRANULE_64K)
LAST_LEVEL = 3

# Fault status codes; the first four come with a level.
ADDRESS_SIZE, TRANSLATION, ACCESS_FLAG, PERMISSION = 0x00, 0x04, 0x08, 0x0C
ALIGNMENT = 0x21
DESC_AF, DESC_DBM = 10, 51

# What is worth telling of a fault: which of several causes it has.
OFFSET_OUT_OF_RANGE = "only the offset in a block leaves the output size"
DEVICE_ALIGNMENT = "Device memory does not take the access"
DEVICE_WALK = "a stage-1 table in Device memory, with HCR_EL2.PTW"


class TranslationAbortError(Exception):
    """The translation faults. `write` is WnR, None where the kind of access alone decides."""

    def __init__(
        self, kind: int, level: int, *, write: bool | None = None, remark: str | None = None
    ) -> None:
        super().__init__(kind, level)
        self.kind = kind
        self.level = level
        self.write = write
        self.stage2 = False
        self.walk = False  # a stage-2 fault on a stage-1 table access
        self.ipa = 0  # what stage 2 was asked for, in a stage-2 fault
        self.remark = remark

    @property
    def status(self) -> int:
        """The fault status code, as in ESR_ELx.DFSC and PAR_EL1.FST."""
        if self.kind == ALIGNMENT:
            return ALIGNMENT
        if self.level == -1:
            return 0x29 if self.kind == ADDRESS_SIZE else 0x2B
        return self.kind + self.level

    def par(self) -> int:
        """PAR_EL1 as AT reports this fault."""
        return (1 << 11) | (self.stage2 << 9) | (self.walk << 8) | (self.status << 1) | 1


@dataclass(frozen=True)
class Access:
    """What is asked: which way, by whom, and whether it is only asked (AT)."""

    read: bool
    write: bool
    el0: bool = False
    at: bool = False
    walk: bool = False  # stage 2 only: the access is a stage-1 table access
    strict: bool = False  # Device memory does not take it: it is unaligned, or DC ZVA

    def check(self, *, readable: bool, writable: bool, level: int) -> None:
        """Permissions; an access that reads and writes is refused as a read first."""
        if self.read and not readable:
            raise TranslationAbortError(PERMISSION, level, write=False)
        if self.write and not writable:
            raise TranslationAbortError(PERMISSION, level, write=True)


@dataclass(frozen=True)
class Output:
    """An address that was translated and what memory it is."""

    pa: int
    attributes: Attributes
    combined: tuple[int, int] | None = None  # for reports: stage 1's byte and stage 2's MemAttr


@dataclass(frozen=True)
class Tables:
    """One set of tables: where it starts and what its descriptors look like."""

    granule: int  # log2 of the page size
    input_bits: int
    output_bits: int
    start: int  # level
    root: int
    ds: bool

    def shift(self, level: int) -> int:
        """The lowest address bit a level resolves."""
        return self.granule + (LAST_LEVEL - level) * (self.granule - 3)

    def block_allowed(self, level: int) -> bool:
        lowest = {GRANULE_4K: 1, GRANULE_16K: 2, GRANULE_64K: 1}[self.granule]
        return lowest - self.ds <= level < LAST_LEVEL

    def address(self, descriptor: int, low: int) -> int:
        """The address in a descriptor whose lowest meaningful bit is `low`."""
        address = bits(descriptor, 47, low) << low
        if self.ds:
            # Bits 49:48 are in place; bits 51:50 come from what used to be the shareability.
            address |= bits(descriptor, 49, 48) << 48
            address |= bits(descriptor, 9, 8) << 50
        elif self.granule == GRANULE_64K:
            # Whatever the output size, which they may exceed (LeafBase, NextTableBase). QEMU
            # ignores them where that is below 52 bits.
            address |= bits(descriptor, 15, 12) << 48
        return address

    def check_output(self, address: int, level: int) -> None:
        if address >> self.output_bits:
            raise TranslationAbortError(ADDRESS_SIZE, level)


@dataclass(frozen=True)
class Leaf:
    """The block or page descriptor a walk ends at."""

    descriptor: int
    location: int  # the address of the descriptor, as the tables have it
    level: int
    output: int
    ap_table: int  # all APTable fields on the way, or-ed


def tables_at(ttbr: int, granule: int, input_bits: int, ps: int, start: int, *, ds: bool) -> Tables:
    output_bits = min(OUTPUT_BITS[ps], PA_BITS if granule == GRANULE_64K or ds else 48)
    wide = granule == GRANULE_64K and OUTPUT_BITS[ps] == 52
    tables = Tables(granule, input_bits, output_bits, start, 0, ds)
    size = 8 << max(0, input_bits - tables.shift(start))
    root = bits(ttbr, 47, 1) << 1
    if ds or wide:
        size = max(size, 64)
        root |= bits(ttbr, 5, 2) << 48
    return replace(tables, root=root - root % size)


def walk(tables: Tables, read: Callable[[int], int], address: int, *, ha: bool) -> Leaf:
    """Follow the tables down to a leaf, whose permissions are not looked at."""
    tables.check_output(tables.root, 0)
    table, level, high, ap_table = tables.root, tables.start, tables.input_bits - 1, 0
    while True:
        low = tables.shift(level)
        location = table + 8 * bits(address, high, low)
        descriptor = read(location)
        kind = bits(descriptor, 1, 0)
        if kind == 0b11 and level < LAST_LEVEL:
            table = tables.address(descriptor, tables.granule)
            tables.check_output(table, level)
            ap_table |= bits(descriptor, 62, 61)
            level, high = level + 1, low - 1
        elif kind == 0b11 or (kind == 0b01 and tables.block_allowed(level)):
            output = tables.address(descriptor, low) | bits(address, low - 1, 0)
            try:
                tables.check_output(output, level)
            except TranslationAbortError as abort:
                if output >> low << low < 1 << tables.output_bits:
                    abort.remark = OFFSET_OUT_OF_RANGE
                raise
            if not bit(descriptor, DESC_AF) and not ha:
                raise TranslationAbortError(ACCESS_FLAG, level)
            return Leaf(descriptor, location, level, output, ap_table)
        else:
            raise TranslationAbortError(TRANSLATION, level)


def txsz_allowed(txsz: int, granule: int, *, ds: bool) -> bool:
    if granule == GRANULE_64K:
        return 12 <= txsz <= 47
    return (12 if ds else 16) <= txsz <= 48


def stage2_start(granule: int, sl: int, *, ds: bool) -> int | None:
    """The start level SL2:SL0 names, or None if it names none."""
    if granule == GRANULE_4K:
        return {0b000: 2, 0b001: 1, 0b010: 0, 0b011: 3, 0b100: -1}.get(sl if ds else sl & 3)
    if granule == GRANULE_16K and ds and sl & 3 == 3:
        return 0
    return {0: 3, 1: 2, 2: 1}.get(sl & 3)


def stage2_tables(regs: Registers) -> Tables | None:
    """The stage-2 tables, or None if VTCR_EL2 contradicts itself."""
    vtcr = regs.get("VTCR_EL2", 0)
    granule = GRANULE_TG0[bits(vtcr, 15, 14)]
    ds = bit(vtcr, 32) and granule != GRANULE_64K
    t0sz = bits(vtcr, 5, 0)
    start = stage2_start(granule, (bit(vtcr, 33) << 2) | bits(vtcr, 7, 6), ds=ds)
    if start is None or not txsz_allowed(t0sz, granule, ds=ds):
        return None
    input_bits = 64 - t0sz
    vttbr, ps = regs.get("VTTBR_EL2", 0), bits(vtcr, 18, 16)
    tables = tables_at(vttbr, granule, input_bits, ps, start, ds=ds)
    # The start level resolves from one bit to what 16 concatenated tables do.
    return tables if 1 <= input_bits - tables.shift(start) <= granule - 3 + 4 else None


def stage2(regs: Registers, mem: Memory, ipa: Output, access: Access) -> Output:
    """Translate an intermediate address; `mem` is changed by hardware flag updates."""
    hcr = regs.get("HCR_EL2", 0)
    if not bit(hcr, 0) and not bit(hcr, 12):  # DC implies VM
        return ipa
    try:
        return _stage2(regs, mem, ipa, access)
    except TranslationAbortError as abort:
        abort.stage2, abort.walk, abort.ipa = True, access.walk, ipa.pa
        raise


def _stage2(regs: Registers, mem: Memory, ipa: Output, access: Access) -> Output:
    hcr, vtcr = regs.get("HCR_EL2", 0), regs.get("VTCR_EL2", 0)
    ha, hd = bit(vtcr, 21), bit(vtcr, 21) and bit(vtcr, 22)
    tables = stage2_tables(regs)
    if tables is None or ipa.pa >> tables.input_bits:
        raise TranslationAbortError(TRANSLATION, 0)
    leaf = walk(tables, lambda pa: mem.get(pa, 0), ipa.pa, ha=ha)
    descriptor = leaf.descriptor
    sh = bits(vtcr, 13, 12) if tables.ds else bits(descriptor, 9, 8)
    memattr, fwb = bits(descriptor, 5, 2), bit(hcr, 46)
    attributes = combine_stage2(ipa.attributes, memattr, sh, fwb=fwb)
    if access.strict and attributes.is_device:
        raise TranslationAbortError(ALIGNMENT, leaf.level, remark=DEVICE_ALIGNMENT)
    dirty_managed = hd and bit(descriptor, DESC_DBM)
    writable = bit(descriptor, 7) or dirty_managed
    access.check(readable=bit(descriptor, 6), writable=writable, level=leaf.level)
    # The attributes of a stage-1 table access are Normal, so Device here is stage 2's word.
    if access.walk and bit(hcr, 2) and attributes.is_device:
        raise TranslationAbortError(PERMISSION, leaf.level, write=access.write, remark=DEVICE_WALK)

    updated = descriptor | 1 << DESC_AF
    if access.write and dirty_managed and not access.at:
        updated |= 1 << 7
    if updated != descriptor:
        mem[leaf.location] = updated
    return Output(leaf.output, attributes, (ipa.attributes.attr, memattr))


def stage1_disabled(regs: Registers, va: int, access: Access) -> Output:
    """The identity, for SCTLR_EL1.M = 0 or HCR_EL2.DC = 1."""
    hcr = regs.get("HCR_EL2", 0)
    tbi = bit(regs.get("TCR_EL1", 0), 38 if bit(va, 55) else 37)
    address = bits(va, 55, 0) if tbi else va
    device = not bit(hcr, 12)
    # Both faults may be due; the address size comes first, and the remark tells of the other.
    remark = DEVICE_ALIGNMENT if device and access.strict else None
    if address >> PA_BITS:
        raise TranslationAbortError(ADDRESS_SIZE, 0, remark=remark)
    if remark is not None:
        raise TranslationAbortError(ALIGNMENT, 0, remark=remark)
    if device:
        return Output(address, Attributes(0x00, OUTER_SHAREABLE))
    attr = ATTR_TAGGED if bit(hcr, 57) else ATTR_WRITE_BACK
    return Output(address, Attributes(attr, NON_SHAREABLE))


def stage1_tables(regs: Registers, va: int) -> Tables:
    """The stage-1 tables for an address; a level-0 Translation fault if there are none."""
    tcr = regs.get("TCR_EL1", 0)
    upper = bit(va, 55)
    txsz = bits(tcr, 21, 16) if upper else bits(tcr, 5, 0)
    granule = GRANULE_TG1[bits(tcr, 31, 30)] if upper else GRANULE_TG0[bits(tcr, 15, 14)]
    ds = bit(tcr, 59) and granule != GRANULE_64K
    if bit(tcr, 23 if upper else 7) or not txsz_allowed(txsz, granule, ds=ds):
        raise TranslationAbortError(TRANSLATION, 0)
    input_bits = 64 - txsz
    top = 55 if bit(tcr, 38 if upper else 37) else 63  # TBI
    expected = (1 << (top - input_bits + 1)) - 1 if upper else 0
    if bits(va, top, input_bits) != expected:
        raise TranslationAbortError(TRANSLATION, 0)
    start = LAST_LEVEL - (input_bits - 1 - granule) // (granule - 3)
    ttbr = regs.get("TTBR1_EL1" if upper else "TTBR0_EL1", 0)
    return tables_at(ttbr, granule, input_bits, bits(tcr, 34, 32), start, ds=ds)


def stage1(regs: Registers, mem: Memory, va: int, access: Access) -> Output:
    """Translate a virtual address; `mem` is changed by hardware flag updates."""
    if not bit(regs.get("SCTLR_EL1", 0), 0) or bit(regs.get("HCR_EL2", 0), 12):
        return stage1_disabled(regs, va, access)
    tcr = regs.get("TCR_EL1", 0)
    upper = bit(va, 55)
    ha, hd = bit(tcr, 39), bit(tcr, 39) and bit(tcr, 40)
    hpd = bit(tcr, 42 if upper else 41)
    tables = stage1_tables(regs, va)

    def table_pa(address: int, *, write: bool) -> int:
        # How TCR_EL1 makes the walker cache its reads does not show; that it is Normal memory does.
        ipa = Output(address, Attributes(ATTR_WRITE_BACK, NON_SHAREABLE))
        # An update is the walker's own write (CreateAccDescTTEUpdate), even on behalf of AT.
        table_access = Access(read=True, write=write, walk=True)
        return stage2(regs, mem, ipa, table_access).pa

    leaf = walk(tables, lambda at: mem.get(table_pa(at, write=False), 0), va, ha=ha)
    descriptor = leaf.descriptor
    attr = mair_attribute(regs.get("MAIR_EL1", 0), bits(descriptor, 4, 2))
    if access.strict and Attributes(attr, 0).is_device:
        raise TranslationAbortError(ALIGNMENT, leaf.level, remark=DEVICE_ALIGNMENT)
    dirty_managed = hd and bit(descriptor, DESC_DBM)
    ap_table = 0 if hpd else leaf.ap_table
    allowed = not access.el0 or (bit(descriptor, 6) and not bit(ap_table, 0))
    writable = (not bit(descriptor, 7) or dirty_managed) and not bit(ap_table, 1)
    access.check(readable=allowed, writable=allowed and writable, level=leaf.level)

    updated = descriptor | 1 << DESC_AF
    if access.write and dirty_managed and not access.at:
        updated &= ~(1 << 7)
    if updated != descriptor:
        mem[table_pa(leaf.location, write=True)] = updated & MASK64
    sh = bits(descriptor, 9, 8)
    if tables.ds:
        sh = bits(tcr, 29, 28) if upper else bits(tcr, 13, 12)
    return Output(leaf.output, Attributes(attr, sh))


def translate(
    regs: Registers, mem: Memory, va: int, access: Access, *, both: bool = True
) -> Output:
    """Translate through stage 1 and, unless `both` is false, stage 2; or raise the fault.

    `mem` is changed by hardware flag updates, those before a fault included.
    """
    output = stage1(regs, mem, va, access)
    if both:
        output = stage2(regs, mem, output, access)
    return replace(output, attributes=finish(output.attributes))


def at(regs: Registers, mem: Memory, kind: str, va: int) -> Output | TranslationAbortError:
    """What `AT kind, va` finds; kind is S1E0R, S1E0W, S1E1R, S1E1W or S12E0R and so on."""
    stages, level, way = kind[:-3], kind[-3:-1], kind[-1]
    if stages not in {"S1", "S12"} or level not in {"E0", "E1"} or way not in {"R", "W"}:
        raise ValueError(kind)
    access = Access(read=way == "R", write=way == "W", el0=level == "E0", at=True)
    try:
        return translate(regs, mem, va, access, both=stages == "S12")
    except TranslationAbortError as abort:
        return abort


def par_of(found: Output | TranslationAbortError) -> int:
    """PAR_EL1 after an AT that found this."""
    if isinstance(found, TranslationAbortError):
        return found.par()
    attr, sh, page = found.attributes.attr, found.attributes.sh, found.pa >> 12 << 12
    return (attr << 56) | page | (1 << 11) | (1 << 9) | (sh << 7)


def par(regs: Registers, mem: Memory, kind: str, va: int) -> int:
    """PAR_EL1 after `AT kind, va`."""
    return par_of(at(regs, mem, kind, va))
