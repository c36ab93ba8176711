//! What an initiator does in its life, in the order in which it does it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aoede_e2e::{Random, aoe::BROADCAST, wait_until};
use aoede_initiator::{
    Answer, Client, ClientError, Disk, DiskInfo, Error, Features, Notice, Refusal, Request,
    Settings,
};
use aoede_wire::{Address, ConfigCommand, Directive, DirectiveCode, MacAddr, ReserveCommand};

use crate::scene::{Kind, SECTOR, SECTORS, STRANGER, Scene};

const PATIENCE: Duration = Duration::from_secs(20);
const E1_1: Address = Address { shelf: 1, slot: 1 };
/// How many sectors it has grown to in the end.
const GROWN: usize = SECTORS + 1000;
/// Of the part of the disk where many requests meet.
const BUSY: usize = 2000;

/// What a target is and has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Sectors in a frame.
    pub(crate) payload: u8,
    pub(crate) buffers: u16,
    pub(crate) firmware: u16,
    /// Names of what is agreed on, in the order of §7.2 and §18.
    pub(crate) features: &'static str,
    pub(crate) trims: bool,
    /// vblade ends when the first entry of its mask list is deleted.
    pub(crate) survives_mask_deletion: bool,
}

/// The whole suite.
pub(crate) fn passes(kind: Kind, mtu: u32, settings: &Settings, expected: &Expected) -> Result<()> {
    let settings = &Settings {
        // Sooner than a test gives up.
        give_up: PATIENCE,
        ..settings.clone()
    };
    let mut scene = Scene::new(kind, mtu)?;
    let client = scene.client()?;
    let disk = it_waits_for_a_late_target(&mut scene, &client, settings)?;
    let mut suite = Suite {
        scene,
        disk,
        shadow: vec![0; SECTORS * SECTOR],
        random: Random::new(0x5EED),
    };
    let outcome = suite.run(&client, expected);
    let stats = suite.disk.info().map(|info| info.stats);
    outcome.with_context(|| format!("{kind:?}, MTU {mtu}: {stats:?}"))
}

/// Asks before anybody is there, and finds the target when it comes.
fn it_waits_for_a_late_target(
    scene: &mut Scene,
    client: &Client,
    settings: &Settings,
) -> Result<Disk> {
    let none = client.attach(E1_1, settings.clone(), Duration::from_millis(100));
    ensure!(matches!(none, Err(ClientError::NotFound { address: E1_1 })));
    let tap = scene.tap()?;
    thread::scope(|scope| {
        let attaching = scope.spawn(|| client.attach(E1_1, settings.clone(), PATIENCE));
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = tap.receive(left)?.context("it does not ask")?;
            if frame[..6] == BROADCAST && frame[16..20] == [0, 1, 1, 1] {
                break;
            }
        }
        scene.start()?;
        let attached = attaching.join().map_err(|_| anyhow!("panicked"))?;
        Ok(attached?)
    })
}

struct Suite {
    scene: Scene,
    disk: Disk,
    /// What the disk should hold.
    shadow: Vec<u8>,
    random: Random,
}

impl Suite {
    fn run(&mut self, client: &Client, expected: &Expected) -> Result<()> {
        self.it_finds_out_what_the_target_is(client, expected)
            .context("what the target is")?;
        self.reads_and_writes_of_all_sizes(expected)
            .context("all sizes")?;
        self.the_ends_of_the_disk().context("the ends")?;
        self.many_at_once(64).context("many at once")?;
        self.many_threads().context("many threads")?;
        self.travelling_together(expected).context("together")?;
        self.flush_and_trim(expected).context("flush and trim")?;
        self.config_string().context("config string")?;
        self.mask(expected).context("mask")?;
        self.reservation().context("reservation")?;
        // Some of that has ended what was agreed on, and nobody was told (§7.4).
        self.many_at_once(64).context("after it was forgotten")?;
        self.a_growing_disk().context("a growing disk")?;
        self.a_target_that_comes_back().context("coming back")?;
        self.many_at_once(200).context("many at the end")?;
        self.reads_what_it_should(0, GROWN)?;
        self.scene.stop()?;
        ensure!(self.scene.image()? == self.shadow, "the image differs");
        Ok(())
    }

    fn it_finds_out_what_the_target_is(
        &mut self,
        client: &Client,
        expected: &Expected,
    ) -> Result<()> {
        let mut found = Vec::new();
        // One of them sleeps to measure.
        wait_until("an answer to everybody", PATIENCE, || {
            found = client.discover(Duration::from_millis(100))?;
            Ok(!found.is_empty())
        })?;
        ensure!(found[0].address == E1_1 && found[0].mac.0 == self.scene.target_mac()?);
        ensure!(found[0].firmware == expected.firmware, "{found:?}");
        let mut told = Vec::new();
        // Until the length of frames is proven, and the ring is measured.
        let settled = |info: &DiskInfo| {
            let path = &info.paths[0];
            let measured = path.measured.is_some() || !expected.features.contains("congestion");
            path.ready && path.sectors_per_frame == expected.payload && measured
        };
        wait_until("a settled path", PATIENCE, || {
            let mut info = self.disk.info()?;
            told.append(&mut info.notices);
            Ok(settled(&info))
        })?;
        let info = self.disk.info()?;
        ensure!(info.paths.len() == 1);
        let path = &info.paths[0];
        ensure!(spoken(path.features) == expected.features, "{path:?}");
        ensure!(
            (path.buffer_count, path.firmware) == (expected.buffers, expected.firmware),
            "{path:?}"
        );
        ensure!(path.measured.is_none_or(|probes| probes > 0));
        // Of a flush that does nothing the initiator warns: only ours does it.
        let ours = expected.firmware == 0x5001;
        ensure!(told.contains(&Notice::FlushProvesNothing) != ours);
        ensure!(info.identity.can_flush() == ours, "{:?}", info.identity);
        ensure!(info.identity.sectors == SECTORS as u64 && info.identity.lba48);
        ensure!(!info.identity.model.is_empty());
        Ok(())
    }

    /// From one sector to more than forty frames, at odd places, one after the other.
    fn reads_and_writes_of_all_sizes(&mut self, expected: &Expected) -> Result<()> {
        let payload = usize::from(expected.payload);
        let sizes = (1..=40).chain([payload * 40 + 1, 1000]);
        for (number, sectors) in sizes.enumerate() {
            let lba = 1 + number * 7;
            self.writes(lba, sectors)?;
            self.reads_what_it_should(lba.saturating_sub(1), sectors + 2)?;
        }
        self.disk.write_at(5, &[])?;
        Ok(())
    }

    fn the_ends_of_the_disk(&mut self) -> Result<()> {
        for lba in [0, SECTORS - 1] {
            self.writes(lba, 1)?;
        }
        self.writes(SECTORS - 33, 33)?;
        self.reads_what_it_should(SECTORS - 40, 40)?;
        let mut two = [0; 2 * SECTOR];
        let last = SECTORS as u64 - 1;
        let beyond = self.disk.read_at(last, &mut two);
        ensure!(matches!(beyond, Err(ClientError::Refused(Refusal::Beyond))));
        let beyond = self.disk.write_at(last, &two);
        ensure!(matches!(beyond, Err(ClientError::Refused(Refusal::Beyond))));
        let odd = self.disk.write_at(0, &[0; 100]);
        ensure!(matches!(
            odd,
            Err(ClientError::Refused(Refusal::NotSectors))
        ));
        Ok(())
    }

    /// Reads and writes that overlap, many under way: each read sees what was asked before it.
    fn many_at_once(&mut self, depth: usize) -> Result<()> {
        let mut queue = self.disk.queue(depth);
        let mut wanted: Vec<Option<Vec<u8>>> = Vec::new();
        let total = 600;
        let mut ended = 0;
        while ended < total {
            while wanted.len() < total && queue.under_way() < depth {
                let sectors = 1 + self.random.below(40);
                let lba = self.random.below(BUSY - sectors);
                let range = lba * SECTOR..(lba + sectors) * SECTOR;
                let first = lba as u64;
                let request = if self.random.below(2) == 0 {
                    let buffer = self.random.bytes(sectors * SECTOR);
                    self.shadow[range].copy_from_slice(&buffer);
                    wanted.push(None);
                    Request::Write { lba: first, buffer }
                } else {
                    wanted.push(Some(self.shadow[range].to_vec()));
                    let buffer = vec![0xEE; sectors * SECTOR];
                    Request::Read { lba: first, buffer }
                };
                let token = wanted.len() as u64 - 1;
                queue
                    .submit(token, request)
                    .map_err(|refused| refused.why)?;
            }
            let done = queue.wait().context("nothing under way")?;
            done.result?;
            let number = usize::try_from(done.token)?;
            if let Some(wanted) = wanted[number].take() {
                let read = done.buffer.context("no buffer")?;
                ensure!(read == wanted, "request {number} read something else");
            }
            ended += 1;
        }
        Ok(())
    }

    fn many_threads(&mut self) -> Result<()> {
        let (each, disk) = (64, &self.disk);
        let parts = self.shadow[..8 * each * SECTOR].chunks_mut(each * SECTOR);
        thread::scope(|scope| {
            let threads: Vec<_> = parts
                .enumerate()
                .map(|(number, part)| {
                    scope.spawn(move || -> Result<()> {
                        let mut random = Random::new(number as u64);
                        for _ in 0..20 {
                            let sectors = 1 + random.below(9);
                            let at = random.below(each - sectors);
                            let lba = (number * each + at) as u64;
                            let range = at * SECTOR..(at + sectors) * SECTOR;
                            let data = random.bytes(sectors * SECTOR);
                            disk.write_at(lba, &data)?;
                            let mut back = vec![0; data.len()];
                            disk.read_at(lba, &mut back)?;
                            ensure!(back == data);
                            part[range].copy_from_slice(&data);
                        }
                        Ok(())
                    })
                })
                .collect();
            for thread in threads {
                thread.join().map_err(|_| anyhow!("panicked"))??;
            }
            Ok(())
        })
    }

    /// Reads share frames where that was agreed on, and write responses may.
    fn travelling_together(&mut self, expected: &Expected) -> Result<()> {
        let stats = self.disk.info()?.stats;
        let reads = expected.features.contains("coalesced_read");
        ensure!((stats.coalesced > 0) == reads, "{stats:?}");
        let replies = expected.features.contains("coalesced_write_reply");
        ensure!((stats.coalesced_replies > 0) == replies, "{stats:?}");
        ensure!((stats.damaged, stats.short) == (0, 0), "{stats:?}");
        Ok(())
    }

    fn flush_and_trim(&mut self, expected: &Expected) -> Result<()> {
        self.disk.flush()?;
        self.writes(100, 50)?;
        let trimmed = self.disk.trim(110, 20);
        if !expected.trims {
            let refused = matches!(trimmed, Err(ClientError::Refused(Refusal::Unsupported)));
            ensure!(refused, "{trimmed:?}");
            return Ok(());
        }
        trimmed?;
        // What is read from there is zeros only if it says so; then it may be anything.
        self.writes(110, 20)?;
        self.reads_what_it_should(100, 50)
    }

    fn config_string(&mut self) -> Result<()> {
        let disk = &self.disk;
        ensure!(disk.config(ConfigCommand::Read, b"")? == b"");
        ensure!(disk.config(ConfigCommand::Set, b"host 7")? == b"host 7");
        ensure!(disk.config(ConfigCommand::Test, b"host 7")? == b"host 7");
        ensure!(disk.config(ConfigCommand::Prefix, b"host")? == b"host 7");
        let differs = disk.config(ConfigCommand::Test, b"host");
        ensure!(matches!(differs, Err(ClientError::Failed(Error::NoMatch))));
        let taken = disk.config(ConfigCommand::Set, b"host 8");
        ensure!(matches!(
            taken,
            Err(ClientError::Failed(Error::ConfigPresent { string })) if string == b"host 7"
        ));
        ensure!(disk.config(ConfigCommand::ForceSet, b"")? == b"");
        let unknown = disk.config(ConfigCommand::Unknown(9), b"");
        ensure!(matches!(
            unknown,
            Err(ClientError::Failed(Error::BadArgument))
        ));
        Ok(())
    }

    fn mask(&mut self, expected: &Expected) -> Result<()> {
        let own = MacAddr(self.scene.own_mac()?);
        let edit = |code| self.disk.mask(&[Directive { code, mac: own }]);
        ensure!(self.disk.mask(&[])? == Answer::Mask(vec![]));
        ensure!(edit(DirectiveCode::Add).context("add")? == Answer::Mask(vec![own]));
        ensure!(self.disk.mask(&[]).context("read")? == Answer::Mask(vec![own]));
        if !expected.survives_mask_deletion {
            // Its list begins anew with the next process.
            self.scene.stop()?;
            self.scene.start()?;
            let empty = self.disk.mask(&[]).context("read anew")?;
            ensure!(empty == Answer::Mask(vec![]));
            return Ok(());
        }
        ensure!(edit(DirectiveCode::Delete).context("delete")? == Answer::Mask(vec![]));
        Ok(())
    }

    fn reservation(&mut self) -> Result<()> {
        let own = MacAddr(self.scene.own_mac()?);
        let disk = &self.disk;
        ensure!(disk.reserve(ReserveCommand::Read, &[])?.is_empty());
        ensure!(disk.reserve(ReserveCommand::Set, &[own])? == [own]);
        ensure!(disk.reserve(ReserveCommand::Read, &[])? == [own]);
        let mut sector = [0; SECTOR];
        disk.read_at(0, &mut sector)?;
        ensure!(disk.reserve(ReserveCommand::Set, &[])?.is_empty());
        self.scene.reserve_for_a_stranger()?;
        let refused = disk.read_at(0, &mut sector);
        ensure!(matches!(refused, Err(ClientError::Failed(Error::Reserved))));
        let holders = disk.reserve(ReserveCommand::Read, &[])?;
        ensure!(holders == [MacAddr(STRANGER)]);
        ensure!(disk.reserve(ReserveCommand::ForceSet, &[])?.is_empty());
        disk.read_at(0, &mut sector)?;
        Ok(())
    }

    fn a_growing_disk(&mut self) -> Result<()> {
        self.disk.info()?;
        self.scene.grow(GROWN)?;
        wait_until("a larger disk", PATIENCE, || {
            Ok(self.disk.sectors()? == GROWN as u64)
        })?;
        let sectors = GROWN as u64;
        let told = self.disk.info()?.notices;
        ensure!(told.contains(&Notice::Resized { sectors }), "{told:?}");
        self.shadow.resize(GROWN * SECTOR, 0);
        self.writes(SECTORS - 20, 60)?;
        self.writes(GROWN - 1, 1)?;
        self.reads_what_it_should(SECTORS - 30, GROWN - SECTORS + 30)
    }

    /// What is asked while nobody is there is answered afterwards.
    fn a_target_that_comes_back(&mut self) -> Result<()> {
        self.scene.stop()?;
        let data = self.random.bytes(30 * SECTOR);
        let mut queue = self.disk.queue(2);
        let (lba, buffer) = (777, data.clone());
        queue
            .submit(1, Request::Write { lba, buffer })
            .map_err(|refused| refused.why)?;
        // It has been asked, and has said nothing.
        let tap = self.scene.tap()?;
        let frame = tap.receive(PATIENCE)?.context("it is not asked")?;
        ensure!(frame[14] & 0x08 == 0);
        self.scene.start()?;
        let done = queue.wait_for(PATIENCE).context("no answer")?;
        done.result?;
        self.shadow[777 * SECTOR..][..data.len()].copy_from_slice(&data);
        self.reads_what_it_should(770, 50)
    }

    fn writes(&mut self, lba: usize, sectors: usize) -> Result<()> {
        let data = self.random.bytes(sectors * SECTOR);
        self.disk
            .write_at(lba as u64, &data)
            .with_context(|| format!("{sectors} sectors written at {lba}"))?;
        self.shadow[lba * SECTOR..][..data.len()].copy_from_slice(&data);
        Ok(())
    }

    fn reads_what_it_should(&self, lba: usize, sectors: usize) -> Result<()> {
        let mut data = vec![0xEE; sectors * SECTOR];
        let what = || format!("{sectors} sectors read at {lba}");
        self.disk
            .read_at(lba as u64, &mut data)
            .with_context(what)?;
        let wanted = &self.shadow[lba * SECTOR..][..data.len()];
        let wrong = data.chunks(SECTOR).zip(wanted.chunks(SECTOR));
        let wrong = wrong.enumerate().find(|(_, (read, wanted))| read != wanted);
        ensure!(
            wrong.is_none(),
            "{}: wrong in sector {:?}",
            what(),
            wrong.map(|(at, _)| at)
        );
        Ok(())
    }
}

/// What is in force, by name.
fn spoken(features: Features) -> String {
    let all = [
        (features.coalesced_read, "coalesced_read"),
        (features.coalesced_write_reply, "coalesced_write_reply"),
        (features.tags, "tag_inc"),
        (features.crc8x4, "crc8x4"),
        (features.crc32c, "crc32c"),
        (features.congestion, "congestion"),
    ];
    let names = all.into_iter().filter_map(|(is, name)| is.then_some(name));
    names.collect::<Vec<_>>().join(" ")
}
