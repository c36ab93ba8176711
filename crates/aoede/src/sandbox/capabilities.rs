//! Capabilities (capabilities(7)): what is kept, and giving up the others.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

/// What the daemon keeps, if it has it: packet rings, and files of other users.
pub const KEPT: CapabilitySet = CapabilitySet::NET_RAW.union(CapabilitySet::DAC_OVERRIDE);

/// Gives up all others, in every set of the calling thread, and returns what is left.
pub(super) fn reduce() -> Result<CapabilitySet> {
    let before = capabilities(None)?;
    let kept = before.permitted & KEPT;
    // Only with this one may the limit for programs that are started be lowered. Without it (as by
    // systemd's unit, which has lowered it already) `no_new_privs` has to do.
    if before.effective.contains(CapabilitySet::SETPCAP) {
        lower_limit(kept)?;
    }
    match clear_ambient_capability_set() {
        // Linux before 4.3 has none.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    Ok(kept)
}

fn lower_limit(kept: CapabilitySet) -> Result<()> {
    // By numbers: the kernel may know more than there are names for.
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !kept.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The names of those of [`KEPT`].
pub(super) fn names(set: CapabilitySet) -> impl Iterator<Item = &'static str> {
    let named = [
        (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    ];
    let there = named.into_iter().filter(move |(one, _)| set.contains(*one));
    there.map(|(_, name)| name)
}
