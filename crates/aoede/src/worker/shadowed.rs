//! A disk whose image can be frozen: the shadow between its volume and the engine.

use std::io;
use std::time::Duration;

use aoede_disk::{
    Buffer, Completion, DeviceOp, Engine, FileId, Recovered, Shadow, ShadowError, ShadowEvent,
    ShadowFile, ShadowFiles, ShadowStatus, Volume,
};

/// An export's shadow.
pub(super) struct Shadowed {
    shadow: Shadow<Buffer>,
    image: FileId,
    /// Data and map, from a freeze until all is merged.
    files: Option<[FileId; 2]>,
    /// An operation that the shadow had no room for,
    held_before: Option<DeviceOp<Buffer>>,
    /// and one that the engine had none for.
    held_behind: Option<(ShadowFile, DeviceOp<Buffer>)>,
    /// Operations with the engine.
    in_flight: usize,
}

impl Shadowed {
    pub(super) fn new(shadow: Shadow<Buffer>, image: FileId) -> Self {
        Self {
            shadow,
            image,
            files: None,
            held_before: None,
            held_behind: None,
            in_flight: 0,
        }
    }

    /// Moves operations from the volume to the shadow and from there to the engine. Returns whether
    /// there were any.
    pub(super) fn submit<E: Engine<Buffer>>(
        &mut self,
        now: Duration,
        volume: &mut Volume<Buffer>,
        engine: &mut E,
    ) -> bool {
        let mut any = false;
        loop {
            while let Some(op) = self.held_before.take().or_else(|| volume.poll_device()) {
                if let Err(refused) = self.shadow.submit(op) {
                    self.held_before = Some(refused);
                    break;
                }
                any = true;
            }
            let held = &mut self.held_behind;
            while let Some((file, op)) = held.take().or_else(|| self.shadow.poll_device()) {
                let [data, map] = self.files.unwrap_or([self.image; 2]);
                let id = match file {
                    ShadowFile::Image => self.image,
                    ShadowFile::Data => data,
                    ShadowFile::Map => map,
                };
                if let Err(refused) = engine.submit(id, op) {
                    *held = Some((file, refused));
                    break;
                }
                self.in_flight += 1;
                any = true;
            }
            // What was refused is answered without the engine.
            if !self.finish(now, volume) {
                return any;
            }
            any = true;
        }
    }

    /// Data and map, as the engine knows them.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> + use<> {
        self.files.into_iter().flatten()
    }

    /// Operations with the engine.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether it has nothing to do by itself.
    pub(super) fn is_idle(&self) -> bool {
        self.shadow.is_idle() && self.held_before.is_none() && self.held_behind.is_none()
    }

    /// Lets go of data and map.
    pub(super) fn detach<E: Engine<Buffer>>(&mut self, engine: &mut E) {
        if let Some(files) = self.files.take() {
            detach(files, engine);
        }
    }

    pub(super) fn handle(
        &mut self,
        now: Duration,
        completion: Completion<Buffer>,
        volume: &mut Volume<Buffer>,
    ) {
        self.in_flight -= 1;
        self.shadow.handle_device(completion);
        self.finish(now, volume);
    }

    fn finish(&mut self, now: Duration, volume: &mut Volume<Buffer>) -> bool {
        let mut any = false;
        while let Some(completion) = self.shadow.poll_done() {
            volume.handle_device(now, completion);
            any = true;
        }
        any
    }

    pub(super) fn freeze<E: Engine<Buffer>>(
        &mut self,
        files: &ShadowFiles,
        limit_bytes: Option<u64>,
        engine: &mut E,
    ) -> io::Result<Result<(), ShadowError>> {
        let attached = attach(files, engine)?;
        let begun = self.shadow.freeze(files.freeze_id, limit_bytes);
        self.begun(attached, begun, engine);
        Ok(begun)
    }

    pub(super) fn resume<E: Engine<Buffer>>(
        &mut self,
        files: &ShadowFiles,
        recovered: Recovered,
        limit_bytes: Option<u64>,
        engine: &mut E,
    ) -> io::Result<Result<(), ShadowError>> {
        let attached = attach(files, engine)?;
        let begun = self.shadow.resume(recovered, limit_bytes);
        self.begun(attached, begun, engine);
        Ok(begun)
    }

    fn begun<E: Engine<Buffer>>(
        &mut self,
        files: [FileId; 2],
        begun: Result<(), ShadowError>,
        engine: &mut E,
    ) {
        if begun.is_ok() {
            self.files = Some(files);
        } else {
            detach(files, engine);
        }
    }

    pub(super) fn thaw(&mut self) -> Result<(), ShadowError> {
        self.shadow.thaw()
    }

    /// The next event. After the last of a freeze its files are the engine's no more.
    pub(super) fn poll_event<E: Engine<Buffer>>(&mut self, engine: &mut E) -> Option<ShadowEvent> {
        let event = self.shadow.poll_event()?;
        let over = matches!(event, ShadowEvent::Merged | ShadowEvent::FreezeFailed(_));
        if event == ShadowEvent::Merged {
            self.shadow.retire();
        }
        if let Some(files) = self.files.take_if(|_| over) {
            detach(files, engine);
        }
        Some(event)
    }

    pub(super) fn set_size(&mut self, size_bytes: u64) -> bool {
        self.shadow.set_size(size_bytes)
    }

    pub(super) fn status(&self) -> ShadowStatus {
        self.shadow.status()
    }
}

fn detach<E: Engine<Buffer>>(files: [FileId; 2], engine: &mut E) {
    for file in files {
        engine.detach(file);
    }
}

fn attach<E: Engine<Buffer>>(files: &ShadowFiles, engine: &mut E) -> io::Result<[FileId; 2]> {
    let data = engine.attach(&files.data)?;
    match engine.attach(&files.map) {
        Ok(map) => Ok([data, map]),
        Err(error) => {
            engine.detach(data);
            Err(error)
        }
    }
}
