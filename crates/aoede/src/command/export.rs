//! `aoede export`: one disk, in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use aoede_disk::OpenOptions;
use aoede_wire::{Address, MacAddr};
use clap::Args;

use crate::log::{self, LogArgs};
use crate::service::{
    self, CacheMode, CacheSettings, EngineChoice, ExportSettings, FreezeSettings, FullShadow,
    IoChoice, ResetChoice, ServiceSettings, UnfinishedFreeze,
};
use crate::size::Size;
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  aoede export e1.1 disk.img -i eth0
  aoede export e1.1 disk.img -i eth0 --create 10GiB
      Make disk.img, sparse, if it does not exist.
  aoede export e1.2 /dev/sdb -i eth0,eth1 --allow 52:54:00:00:00:01,52:54:00:00:00:02
      Two paths to one disk, for two initiators only.
  aoede export e1.4 scratch.img -i eth0 --cache writeback --dirty-size 16MiB
      Acknowledge writes at once; a power cut may lose the last second of them.
  aoede export e1.3 install.iso -i eth0 --read-only --io buffered

The command runs until SIGTERM or SIGINT (Ctrl-C), then finishes what it has begun and exits.
It needs the capability CAP_NET_RAW.";

/// Serve one file or block device as an AoE disk, in the foreground.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// Address of the disk: shelf (0 to 65534) and slot (0 to 254), such as e1.1.
    address: Address,

    /// File or block device to serve.
    path: PathBuf,

    /// Interfaces to serve on, separated by commas.
    #[arg(
        short,
        long = "interface",
        value_name = "INTERFACE",
        required = true,
        value_delimiter = ',',
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    interfaces: Vec<String>,

    /// Make the file if it does not exist: a sparse file of this size, such as 10GiB.
    #[arg(long, value_name = "SIZE", conflicts_with = "read_only")]
    create: Option<Size>,

    /// Refuse writes.
    #[arg(short, long)]
    read_only: bool,

    /// Leave out this many 512-byte sectors at the beginning of the file.
    #[arg(long, value_name = "SECTORS", default_value_t = 0)]
    offset: u64,

    /// Serve this many 512-byte sectors instead of all to the end.
    #[arg(long, value_name = "SECTORS")]
    length: Option<u64>,

    /// Only these initiators may use the disk: MAC addresses, separated by commas.
    #[arg(long, value_name = "MAC", value_delimiter = ',')]
    allow: Vec<MacAddr>,

    /// When a write is acknowledged.
    #[arg(long, value_enum, default_value_t = CacheMode::default())]
    cache: CacheMode,

    /// Memory for the cache, such as 64MiB [default: 8MiB; with writeback --dirty-size and a quarter
    /// more, at least 8MiB more].
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,

    /// With writeback: most data that is acknowledged and not on stable storage.
    #[arg(long, value_name = "SIZE", default_value_t = CacheSettings::default().dirty)]
    dirty_size: Size,

    /// With writeback: for how long at most data is acknowledged and not on stable storage.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = age)]
    dirty_age: Duration,

    /// How the file is read and written.
    #[arg(long, value_enum, default_value_t = IoChoice::default())]
    io: IoChoice,

    /// Be ready to freeze: where writes go while the image must not change. Makes PATH and
    /// PATH.map at each freeze and removes them when all is merged.
    #[arg(long, value_name = "PATH", conflicts_with = "read_only")]
    shadow: Option<PathBuf>,

    /// Most room that the shadow may take [default: most of what is free].
    #[arg(long, value_name = "SIZE", requires = "shadow")]
    shadow_limit: Option<Size>,

    /// What happens to writes that the shadow has no room for.
    #[arg(long, value_enum, default_value_t = FullShadow::default(), requires = "shadow")]
    shadow_full: FullShadow,

    /// What happens to a freeze that a restart has interrupted.
    #[arg(long, value_enum, default_value_t = UnfinishedFreeze::default(), requires = "shadow")]
    unfinished_freeze: UnfinishedFreeze,

    /// Kernel interface for file I/O.
    #[arg(long, value_enum, default_value_t = EngineChoice::default())]
    engine: EngineChoice,

    /// How long to look for more to do before sleeping, while at least four operations are with the
    /// disk: it shortens latencies and costs processor time. 0s never looks.
    #[arg(long, value_name = "TIME", default_value = "50us", value_parser = busy_poll)]
    busy_poll: Duration,

    /// Requests that the target holds at once and announces to initiators.
    #[arg(
        long,
        value_name = "N",
        default_value_t = service::BUFFERS,
        value_parser = clap::value_parser!(u16).range(
            i64::from(*service::BUFFERS_RANGE.start())..=i64::from(*service::BUFFERS_RANGE.end())
        )
    )]
    buffers: u16,

    /// Which Query/Config commands end the extensions that initiators have negotiated.
    #[arg(long, value_enum, default_value_t = ResetChoice::default())]
    extension_reset: ResetChoice,

    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn run(args: ExportArgs) -> anyhow::Result<()> {
    log::start(args.log);
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let settings = args.settings();
    service::run(&settings, stop, |_| ())
}

impl ExportArgs {
    fn settings(self) -> ServiceSettings {
        let plain = ExportSettings::new(self.address, self.path);
        ServiceSettings {
            interfaces: self.interfaces,
            engine: self.engine,
            busy_poll: self.busy_poll,
            export: ExportSettings {
                open: OpenOptions {
                    read_only: self.read_only,
                    io: self.io.into(),
                    offset_sectors: self.offset,
                    length_sectors: self.length,
                    create_bytes: self.create.map(|size| size.0),
                    ..plain.open
                },
                allow: self.allow,
                buffers: self.buffers,
                cache: CacheSettings {
                    mode: self.cache,
                    size: self.cache_size,
                    dirty: self.dirty_size,
                    dirty_age: self.dirty_age,
                },
                freeze: self.shadow.map(|path| FreezeSettings {
                    path,
                    limit: self.shadow_limit,
                    full: self.shadow_full,
                    unfinished: self.unfinished_freeze,
                }),
                extension_reset: self.extension_reset.into(),
                ..plain
            },
        }
    }
}

/// How long to look for work.
fn busy_poll(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 50us, or 0s"))?;
    if time <= service::MOST_BUSY_POLL {
        Ok(time)
    } else {
        Err("at most 10ms, please".to_owned())
    }
}

/// How old acknowledged data may become.
fn age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 500ms or 2s"))?;
    if service::DIRTY_AGES.contains(&age) {
        Ok(age)
    } else {
        Err("from 10ms to 1h, please".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        export: ExportArgs,
    }

    /// They are written in the options' own words too, which must say the same.
    #[test]
    fn without_options_an_export_has_the_defaults_of_every_export() {
        let cli = Cli::try_parse_from(["x", "e1.1", "/disk.img", "-i", "eth0"]).unwrap();
        let settings = cli.export.settings();
        let address = Address::new(1, 1).unwrap();
        let plain = ExportSettings::new(address, PathBuf::from("/disk.img"));
        assert_eq!(settings.export, plain);
        assert_eq!(settings.engine, EngineChoice::default());
        assert_eq!(settings.busy_poll, service::BUSY_POLL);
    }
}
