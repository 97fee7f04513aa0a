//! What the host is, where a test depends on it.

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this kernel's Landlock denies what version `abi` brought.
pub fn landlock_has(abi: u32, what: &str) -> bool {
    let has = supervisor::host::landlock_abi() >= abi;
    if !has {
        println!("NOT CHECKED: this kernel's Landlock does not know {what} (ABI {abi})");
    }
    has
}
