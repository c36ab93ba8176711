//! The stale write, shown for real: a late copy of a write meets newer data in the same sector.
//!
//! The forwarder holds one write back, lets its repetition and a newer write pass, then releases
//! it. Without tags the newer data is lost, with vblade as with ours; the stories say so too, or
//! the others would prove nothing. What tag tracking (§9) and the initiator's own care (§15, 8 and
//! 10) do about it, and what they do not, is here, each with a frame in which the tags matter.

#![expect(clippy::indexing_slicing, reason = "what is too short fails the test")]

#[path = "stale_write/by_hand.rs"]
mod by_hand;
#[path = "stale_write/by_initiator.rs"]
mod by_initiator;
#[path = "stale_write/scene.rs"]
mod scene;
