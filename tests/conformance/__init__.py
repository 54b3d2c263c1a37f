"""Random instructions and walks: the emulator against the oracle, and the oracle against QEMU."""
