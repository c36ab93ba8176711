//! Frames made by hand, where the exact tags matter.

use anyhow::{Result, ensure};
use aoede_e2e::Maker;

use crate::scene::{Answer, SOON, Scene};

const OLD: u8 = 0x0d;
const NEW: u8 = 0xe7;

/// Tracking with big-endian tags, and with little-endian ones.
const BE: &[u8] = b"reset\0tag_inc_be\0\0";
const LE: &[u8] = b"reset\0tag_inc_le\0\0";
/// Tags of reads are not tracked.
const READ: u32 = 0x0bad_cafe;

/// A write is held back, repeated and answered, and a newer one too; then the first copy arrives.
fn late_copy(scene: &Scene, old_tag: u32, new_tag: u32) -> Result<(Answer, u8)> {
    let late = scene.hold();
    scene.send_write(old_tag, OLD)?;
    late.wait(1, SOON)?;
    scene.put(old_tag, OLD)?;
    scene.put(new_tag, NEW)?;
    let answer = scene.release(&late, READ)?;
    Ok((answer, scene.fill(READ)?))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_tags_a_late_copy_overwrites_newer_data() -> Result<()> {
    for maker in [Maker::Vblade, Maker::Aoede] {
        let scene = Scene::new(maker)?;
        let outcome = late_copy(&scene, 0x100, 0x101)?;
        ensure!(outcome == (Answer::Success, OLD), "{maker:?}: {outcome:?}");
        scene.stop(OLD)?;
    }
    Ok(())
}

/// `tag_random` (§9.5) promises no more than this.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn with_unique_tags_a_late_copy_overwrites_newer_data_too() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    scene.negotiate(b"reset\0tag_random\0\0")?;
    let outcome = late_copy(&scene, 0x100, 0x101)?;
    ensure!(outcome == (Answer::Success, OLD), "{outcome:?}");
    scene.stop(OLD)
}

/// Read in the wrong order the newer tag would be the older one, and its write not carried out.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn with_counted_tags_a_late_copy_is_answered_and_changes_nothing() -> Result<()> {
    for (table, swap) in [(BE, false), (LE, true)] {
        let scene = Scene::new(Maker::Aoede)?;
        scene.negotiate(table)?;
        let tag = |tag: u32| if swap { tag.swap_bytes() } else { tag };
        let outcome = late_copy(&scene, tag(0x100), tag(0x1ff))?;
        ensure!(outcome == (Answer::Success, NEW), "{outcome:?}");
        scene.stop(NEW)?;
    }
    Ok(())
}

/// A copy from behind the window is older than all that is remembered: silence.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_copy_from_behind_the_window_changes_nothing() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    scene.negotiate(BE)?;
    // 32768 tags are remembered: the last that is, and the first that is not.
    for (ahead, expected) in [(32_767, Answer::Success), (32_768, Answer::Silence)] {
        let tag = 0x0100_0000 + ahead;
        let outcome = late_copy(&scene, tag, tag + ahead)?;
        ensure!(outcome == (expected, NEW), "{ahead}: {outcome:?}");
    }
    scene.stop(NEW)
}

/// §9.2: the counter has 32 bits and goes round; 0 is a tag like any other.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_late_copy_from_before_the_wrap_changes_nothing() -> Result<()> {
    for table in [&b""[..], BE] {
        let scene = Scene::new(Maker::Aoede)?;
        let tracked = !table.is_empty();
        if tracked {
            scene.negotiate(table)?;
        }
        // Copies of the first, of the last before the wrap, and of the first after it.
        let mut late = Vec::new();
        for number in 0..32_u32 {
            let tag = 0xffff_fff0_u32.wrapping_add(number);
            if [0xffff_fff0, u32::MAX, 0].contains(&tag) {
                let held = scene.hold();
                scene.send_write(tag, OLD)?;
                held.wait(1, SOON)?;
                late.push(held);
            }
            scene.put(tag, if tag == 0x0f { NEW } else { OLD })?;
        }
        ensure!(scene.fill(READ)? == NEW);
        let left = if tracked { NEW } else { OLD };
        for held in &late {
            ensure!(scene.release(held, READ)? == Answer::Success);
            ensure!(scene.fill(READ)? == left);
            if !tracked {
                scene.put(0x10, NEW)?;
            }
        }
        let tag = if tracked { 0x10 } else { 0x11 };
        scene.put(tag, NEW)?;
        scene.stop(NEW)?;
    }
    Ok(())
}

/// What a fresh window (`reset`, `tag_inc_be`) makes of a copy from before it. It remembers
/// nothing, so only the distance of tags can tell: hence the leap of 65536 (§9.2), and since the
/// leap means nothing to a window without any tag, the pause before (§15, 8).
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_renegotiation_is_outlived_by_the_pause_and_the_leap_together() -> Result<()> {
    let old = 0x0001_0000;
    for (story, first_of_new, answer, left) in [
        // The copy arrives before a first write: new for all the target knows. A write that was
        // answered before is lost. Nothing but the pause keeps copies out of this gap.
        ("in the gap", None, Answer::Success, OLD),
        // Counted on: behind the first write of the new window, inside it and not seen yet.
        ("without a leap", Some(old + 2), Answer::Success, OLD),
        // As the initiator does it.
        (
            "with the leap",
            Some(old + 1 + 65_536),
            Answer::Silence,
            NEW,
        ),
    ] {
        let scene = Scene::new(Maker::Aoede)?;
        scene.negotiate(BE)?;
        let late = scene.hold();
        scene.send_write(old, OLD)?;
        late.wait(1, SOON)?;
        scene.put(old, OLD)?;
        scene.put(old + 1, NEW)?;
        scene.negotiate(BE)?;
        if let Some(tag) = first_of_new {
            scene.put(tag, NEW)?;
        }
        let outcome = (scene.release(&late, READ)?, scene.fill(READ)?);
        ensure!(outcome == (answer, left), "{story}: {outcome:?}");
        scene.stop(left)?;
    }
    Ok(())
}

/// An initiator that starts again has the same MAC and tags that begin elsewhere. Its agreement
/// empties the window (§7.4), so of its former life the target knows nothing: a late copy is told
/// by its tag alone, if that is behind the new ones (by 32768 to 2^31), and else carried out.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restarted_initiator_is_protected_from_tags_behind_its_own() -> Result<()> {
    let old: u32 = 0x4000_0000;
    for (story, new_life, answer, left) in [
        (
            "far ahead of the former life",
            old + 0x7fff_0000,
            Answer::Silence,
            NEW,
        ),
        ("just out of the window", old + 32_768, Answer::Silence, NEW),
        ("a little ahead", old + 1000, Answer::Success, OLD),
        ("behind, from 1 on", 1, Answer::Success, OLD),
        (
            "more than half of all tags ahead",
            old + 0x8000_0001,
            Answer::Success,
            OLD,
        ),
    ] {
        let scene = Scene::new(Maker::Aoede)?;
        scene.negotiate(BE)?;
        let late = scene.hold();
        scene.send_write(old, OLD)?;
        late.wait(1, SOON)?;
        scene.put(old, OLD)?;

        scene.negotiate(BE)?;
        scene.put(new_life, NEW)?;
        let outcome = (scene.release(&late, READ)?, scene.fill(READ)?);
        ensure!(outcome == (answer, left), "{story}: {outcome:?}");
        // Its own copies it is always protected from.
        if left == NEW {
            let outcome = late_copy(&scene, new_life + 1, new_life + 2)?;
            ensure!(outcome == (Answer::Success, NEW), "{story}: {outcome:?}");
        }
        scene.stop(left)?;
    }
    Ok(())
}

/// Agreed on once, and not again by the new life: the window of the former one goes on. Then the
/// copy is told, and so are the new life's writes as long as their tags are not behind it.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restarted_initiator_that_does_not_negotiate_keeps_the_window_of_its_former_life() -> Result<()>
{
    let scene = Scene::new(Maker::Aoede)?;
    scene.negotiate(BE)?;
    let late = scene.hold();
    scene.send_write(0x1000, OLD)?;
    late.wait(1, SOON)?;
    scene.put(0x1000, OLD)?;
    scene.put(0x5000, NEW)?;
    ensure!(scene.release(&late, READ)? == Answer::Success);
    ensure!(scene.fill(READ)? == NEW);
    scene.stop(NEW)
}
