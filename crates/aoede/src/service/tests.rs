//! Exports that are closed and opened again, on real files and without a network.

use std::path::Path;
use std::time::{Duration, Instant};

use aoede_disk::{
    Cause, DiskError, Errno, Operation, Pool, SECTOR_BYTES, ShadowPhase, TASKS, Windows,
};
use aoede_wire::Address;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::engines::Engines;
use super::freeze::SHADOW_OPS;
use super::order::{Failure, Opening, Remembered};
use super::seats::PortWorker;
use super::served::Served;
use super::size_watch::SizeWatches;
use super::{
    EngineChoice, ExportSettings, FreezeSettings, FullShadow, UnfinishedFreeze, pool_shape,
};
use crate::control::config::Export;
use crate::control::status::FailureStatus;
use crate::worker::Worker;

/// For what takes as long as the disk does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A worker without interfaces, and the disk that it serves.
struct Bench {
    folder: TempDir,
    worker: PortWorker,
    watches: SizeWatches,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = std::fs::File::create(folder.path().join("image")).unwrap();
        image.set_len(1 << 20).unwrap();
        let pool = Pool::new(pool_shape(1500, 64, 4096)).unwrap();
        let engines = Engines::new(64 + TASKS + 1 + SHADOW_OPS, &pool);
        Self {
            folder,
            worker: Worker::new(engines, pool, 0),
            watches: SizeWatches::default(),
            start: Instant::now(),
        }
    }

    fn open(&mut self, after_restart: bool, failure: Option<Failure>) -> Served {
        let opening = Opening {
            after_restart,
            remembered: Remembered {
                failure,
                ..Remembered::default()
            },
            ..Opening::new(export(self.folder.path()), &Windows::default()).unwrap()
        };
        Served::start(opening, true, &mut self.worker, &mut self.watches).unwrap()
    }

    /// Works until there is nothing to do.
    fn work(&mut self, served: &mut Served) {
        let mut idle = false;
        while !idle || self.worker.operations() > 0 {
            let now = self.start.elapsed();
            assert!(now < PATIENCE);
            idle = !self.worker.turn(now).unwrap();
            served.advance(now, &mut self.worker);
        }
    }

    fn freeze(&mut self, served: &mut Served) {
        let (sender, mut answer) = oneshot::channel();
        served.freeze(self.start.elapsed(), &mut self.worker, sender);
        self.work(served);
        answer.try_recv().unwrap().unwrap();
        assert_eq!(self.phase(served), ShadowPhase::Frozen);
    }

    fn close(&mut self, mut served: Served) {
        let (sender, _) = oneshot::channel();
        served.close(self.start.elapsed(), &mut self.worker, sender);
        self.work(&mut served);
        assert!(served.try_end(&mut self.worker, &self.watches).is_some());
    }

    fn phase(&self, served: &Served) -> ShadowPhase {
        self.worker.shadow_status(served.number()).unwrap().phase
    }
}

/// One that merges a freeze which a restart has interrupted.
fn export(folder: &Path) -> Export {
    let address = Address { shelf: 1, slot: 1 };
    let mut export = Export::new(address, folder.join("image"), Vec::new());
    export.engine = EngineChoice::Blocking;
    export.settings = ExportSettings {
        freeze: Some(FreezeSettings {
            path: folder.join("shadow"),
            limit: None,
            full: FullShadow::Fail,
            unfinished: UnfinishedFreeze::Merge,
        }),
        ..export.settings
    };
    export.settings.open.io = aoede_disk::IoMode::Buffered;
    export
}

fn no_room() -> Failure {
    Failure {
        error: DiskError {
            operation: Operation::Write,
            lba: 8,
            sectors: 8,
            cause: Cause::Device(Errno::NOSPC),
        },
        status: FailureStatus {
            at_risk_bytes: 8 * SECTOR_BYTES,
            ..FailureStatus::default()
        },
    }
}

#[test]
fn an_unfinished_freeze_is_merged_after_a_restart_only() {
    let mut bench = Bench::new();
    let mut served = bench.open(true, None);
    bench.freeze(&mut served);
    bench.close(served);

    let mut served = bench.open(false, None);
    bench.work(&mut served);
    assert_eq!(bench.phase(&served), ShadowPhase::Frozen);
    bench.close(served);

    let mut served = bench.open(true, None);
    bench.work(&mut served);
    assert_eq!(bench.phase(&served), ShadowPhase::Thawed);
}

#[test]
fn room_for_what_an_earlier_process_has_lost_mends_nothing() {
    let mut bench = Bench::new();
    let mut served = bench.open(true, None);
    bench.freeze(&mut served);
    bench.close(served);

    let mut served = bench.open(true, Some(no_room()));
    bench.work(&mut served);
    assert_eq!(bench.phase(&served), ShadowPhase::Thawed);
    let failure = |bench: &Bench| bench.worker.volume(served.number()).unwrap().failure();
    assert_eq!(failure(&bench), Some(no_room().error));
    assert_eq!(served.failure(&bench.worker), Some(no_room()));

    let reset = served.reset_failure(Duration::ZERO, &mut bench.worker);
    assert!(reset.is_ok());
    assert_eq!(served.failure(&bench.worker), None);
}
