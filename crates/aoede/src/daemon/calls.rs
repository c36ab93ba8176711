//! What comes by the control socket.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::rc::Rc;

use aoede_disk::SECTOR_BYTES;
use aoede_wire::Address;
use tokio::sync::oneshot;
use tracing::info;

use super::Daemon;
use crate::control::api::{self, Call, Drained, FailureReset, Reason, Refusal, Resized, Stopping};
use crate::control::config::Export;
use crate::control::status::{
    self, DaemonStatus, ExportState, ExportStatus, FreezeStatus, InterfaceStatus, Status,
};
use crate::service::{Order, Report};

/// Says who is to be waited for.
pub(super) fn answer_stop(answer: api::Answer<Stopping>) {
    info!("asked to stop");
    // Whoever asked may be gone; so below.
    let _ = answer.send(Ok(Stopping {
        pid: std::process::id(),
    }));
}

impl Daemon {
    /// Carries out a call, and answers.
    pub(super) async fn take_call(self: Rc<Self>, call: Call) {
        match call {
            Call::Status(answer) => {
                let status = self.status().await;
                let _ = answer.send(Ok(status));
            }
            Call::Reload(answer) => {
                info!("asked to read the configuration again");
                let reloaded = self.reload().await;
                let _ = answer.send(reloaded);
            }
            Call::Freeze(address, answer) => self.pass_on(address, answer, Order::Freeze),
            Call::Thaw(address, answer) => self.pass_on(address, answer, Order::Thaw),
            Call::ResetFailure(address, answer) => {
                self.pass_on::<FailureReset>(address, answer, Order::ResetFailure);
            }
            Call::Resize(address, bytes, answer) => {
                let resized = self.resize(address, bytes).await;
                let _ = answer.send(resized);
            }
            Call::Drain(address, answer) => {
                let drained = self.drain(address).await;
                let _ = answer.send(drained);
            }
            Call::Stop(answer) => answer_stop(answer),
        }
    }

    /// Lets the worker answer.
    fn pass_on<T>(
        &self,
        address: Address,
        answer: api::Answer<T>,
        order: impl FnOnce(Address, api::Answer<T>) -> Order,
    ) {
        match self.worker_of(address) {
            Some(worker) => worker.send(order(address, answer)),
            None => drop(answer.send(Err(unknown(address)))),
        }
    }

    async fn resize(&self, address: Address, bytes: Option<u64>) -> Result<Resized, Refusal> {
        let _changing = self.changing.lock().await;
        let (Some(worker), Some(export)) = (self.worker_of(address), self.export(address)) else {
            return Err(unknown(address));
        };
        let size = || async {
            let (sender, sectors) = oneshot::channel();
            worker.send(Order::LookAtSize(address, sender));
            let sectors = sectors.await.ok().flatten();
            let sectors = sectors.ok_or_else(|| unknown(address))?;
            Ok::<_, Refusal>(sectors.saturating_mul(SECTOR_BYTES))
        };
        let old_size_bytes = size().await?;
        if let Some(bytes) = bytes {
            check_size(&export, old_size_bytes, bytes)?;
            let path = export.settings.path.clone();
            let offset = export.settings.open.offset_sectors;
            let end = offset.saturating_mul(SECTOR_BYTES).saturating_add(bytes);
            let grown = tokio::task::spawn_blocking(move || grow(&path, end)).await;
            match grown {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let message = format!("{address}: cannot set the size: {error}");
                    return Err(Refusal::new(Reason::Failed, message, ""));
                }
                Err(_) => return Err(Refusal::new(Reason::Busy, "the daemon is ending", "")),
            }
        }
        let size_bytes = size().await?;
        Ok(Resized {
            old_size_bytes,
            size_bytes,
        })
    }

    async fn drain(&self, address: Address) -> Result<Drained, Refusal> {
        let _changing = self.changing.lock().await;
        let Some(export) = self.export(address) else {
            return Err(unknown(address));
        };
        let Some(closed) = self.close(address).await else {
            return Err(unknown(address));
        };
        let lost_bytes = closed.lost_bytes;
        self.set_idle(export, Some(closed));
        Ok(Drained { lost_bytes })
    }

    /// How everything is.
    async fn status(&self) -> Status {
        let answers: Vec<oneshot::Receiver<Report>> = {
            let inner = self.inner.borrow();
            let ask = |handle: &crate::service::OrderSender| {
                let (sender, answer) = oneshot::channel();
                handle.send(Order::Report(sender));
                answer
            };
            inner.workers.values().map(ask).collect()
        };
        let mut status = Status {
            version: status::VERSION,
            ..Status::default()
        };
        let mut interfaces: BTreeMap<String, InterfaceStatus> = BTreeMap::new();
        let mut drops: BTreeMap<String, u64> = BTreeMap::new();
        for answer in answers {
            // One that has ended in between has nothing to tell.
            let Ok(report) = answer.await else { continue };
            status.workers.push(report.worker);
            status.exports.extend(report.exports);
            for (reason, frames) in report.drops {
                *drops.entry(reason).or_default() += frames;
            }
            for interface in report.interfaces {
                merge(&mut interfaces, interface);
            }
        }
        let inner = self.inner.borrow();
        for unserved in inner.idle.values() {
            status
                .exports
                .push(not_served(&unserved.export, unserved.drained.is_some()));
        }
        let key = |one: &ExportStatus| one.address.parse::<Address>().ok();
        status.exports.sort_by_key(key);
        status.interfaces = interfaces.into_values().collect();
        status.uptime_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        status.daemon = DaemonStatus {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config_file: self.config_file.display().to_string(),
            last_reload: inner.last_reload.clone(),
            drops,
        };
        status
    }
}

/// One interface may have a ring for each worker.
fn merge(interfaces: &mut BTreeMap<String, InterfaceStatus>, found: InterfaceStatus) {
    let Some(known) = interfaces.get_mut(&found.name) else {
        interfaces.insert(found.name.clone(), found);
        return;
    };
    let mut rings = std::mem::take(&mut known.rings);
    if found.present {
        known.clone_from(&found);
        known.rings.clear();
    }
    rings.extend(found.rings);
    known.rings = rings;
}

fn not_served(export: &Export, drained: bool) -> ExportStatus {
    let settings = &export.settings;
    ExportStatus {
        address: export.address().to_string(),
        path: settings.path.display().to_string(),
        state: if drained {
            ExportState::Drained
        } else {
            ExportState::Failed
        },
        read_only: settings.open.read_only,
        cache_mode: settings.cache.mode.to_string(),
        buffers: settings.buffers,
        freeze: settings.freeze.is_some().then(FreezeStatus::default),
        ..ExportStatus::default()
    }
}

/// Only what initiators can follow: growing.
fn check_size(export: &Export, old_bytes: u64, bytes: u64) -> Result<(), Refusal> {
    let address = export.address();
    let invalid =
        |message: String, remedy: &str| Err(Refusal::new(Reason::Invalid, message, remedy));
    if !bytes.is_multiple_of(SECTOR_BYTES) || bytes == 0 {
        return invalid(
            format!("{address}: {bytes} bytes are no size of a disk"),
            "give a multiple of 512",
        );
    }
    if bytes < old_bytes {
        return invalid(
            format!("{address}: the disk has {old_bytes} bytes: it would lose its end"),
            "shrink the file by hand, if that is meant, and call again without a size",
        );
    }
    if export.settings.open.length_sectors.is_some() {
        return invalid(
            format!("{address}: its length is in the configuration"),
            "change `length` there, and reload",
        );
    }
    Ok(())
}

/// Makes a file longer; what is longer already stays.
fn grow(path: &std::path::Path, bytes: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(
            "a device gets its size from whoever makes it; call again without one then",
        ));
    }
    if metadata.len() < bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

fn unknown(address: Address) -> Refusal {
    let message = format!("{address} is not served");
    Refusal::new(Reason::NotFound, message, "aoede status lists what is")
}
