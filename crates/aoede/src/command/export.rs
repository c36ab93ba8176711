//! `aoede export`: one disk, in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use aoede_disk::{IoMode, OpenOptions};
use aoede_target::ExtensionReset;
use aoede_wire::{Address, MacAddr};
use clap::{Args, ValueEnum};

use crate::log::{self, LogArgs};
use crate::service::{
    self, CacheMode, CacheSettings, EngineChoice, ExportSettings, FreezeSettings, FullShadow,
    ServiceSettings, UnfinishedFreeze,
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
    #[arg(long, value_enum, default_value_t = CacheMode::Writethrough)]
    cache: CacheMode,

    /// Memory for the cache, such as 64MiB [default: 8MiB; with writeback --dirty-size and a quarter
    /// more, at least 8MiB more].
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,

    /// With writeback: most data that is acknowledged and not on stable storage.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    dirty_size: Size,

    /// With writeback: for how long at most data is acknowledged and not on stable storage.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = age)]
    dirty_age: Duration,

    /// How the file is read and written.
    #[arg(long, value_enum, default_value_t = Io::Direct)]
    io: Io,

    /// Be ready to freeze: where writes go while the image must not change. Makes PATH and
    /// PATH.map at each freeze and removes them when all is merged.
    #[arg(long, value_name = "PATH", conflicts_with = "read_only")]
    shadow: Option<PathBuf>,

    /// Most room that the shadow may take [default: most of what is free].
    #[arg(long, value_name = "SIZE", requires = "shadow")]
    shadow_limit: Option<Size>,

    /// What happens to writes that the shadow has no room for.
    #[arg(long, value_enum, default_value_t = FullShadow::Fail, requires = "shadow")]
    shadow_full: FullShadow,

    /// What happens to a freeze that a restart has interrupted.
    #[arg(long, value_enum, default_value_t = UnfinishedFreeze::Continue, requires = "shadow")]
    unfinished_freeze: UnfinishedFreeze,

    /// Kernel interface for file I/O.
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,

    /// How long to look for more to do before sleeping, while at least four operations are with the
    /// disk: it shortens latencies and costs processor time. 0s never looks.
    #[arg(long, value_name = "TIME", default_value = "50us", value_parser = busy_poll)]
    busy_poll: Duration,

    /// Requests that the target holds at once and announces to initiators.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=1024))]
    buffers: u16,

    /// Which Query/Config commands end the extensions that initiators have negotiated.
    #[arg(long, value_enum, default_value_t = Reset::Release)]
    extension_reset: Reset,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reset {
    /// Those that set the config string, for every initiator of the disk: as the 2014 AoEde's
    /// release.
    Release,
    /// As well any other, for its sender: as the 2014 AoEde's first version.
    Config,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Io {
    /// Past the host's page cache.
    Direct,
    /// Through the host's page cache.
    Buffered,
    /// Through the host's page cache, without leaving anything there (Linux 6.14, XFS or ext4).
    Uncached,
}

pub(super) fn run(args: ExportArgs) -> anyhow::Result<()> {
    log::start(args.log);
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let settings = ServiceSettings {
        interfaces: args.interfaces,
        engine: args.engine,
        busy_poll: args.busy_poll,
        export: ExportSettings {
            address: args.address,
            path: args.path,
            open: OpenOptions {
                read_only: args.read_only,
                io: match args.io {
                    Io::Direct => IoMode::Direct,
                    Io::Buffered => IoMode::Buffered,
                    Io::Uncached => IoMode::Uncached,
                },
                offset_sectors: args.offset,
                length_sectors: args.length,
                create_bytes: args.create.map(|size| size.0),
                lock_patience: service::LOCK_PATIENCE,
            },
            allow: args.allow,
            buffers: args.buffers,
            cache: CacheSettings {
                mode: args.cache,
                size: args.cache_size,
                dirty: args.dirty_size,
                dirty_age: args.dirty_age,
            },
            freeze: args.shadow.map(|path| FreezeSettings {
                path,
                limit: args.shadow_limit,
                full: args.shadow_full,
                unfinished: args.unfinished_freeze,
            }),
            extension_reset: match args.extension_reset {
                Reset::Release => ExtensionReset::SetOnly,
                Reset::Config => ExtensionReset::AnyConfig,
            },
        },
    };
    service::run(&settings, stop, |_| ())
}

/// How long to look for work.
fn busy_poll(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 50us, or 0s"))?;
    if time <= MOST_BUSY_POLL {
        Ok(time)
    } else {
        Err("at most 10ms, please".to_owned())
    }
}

/// How old acknowledged data may become.
fn age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 500ms or 2s"))?;
    if (MIN_AGE..=MAX_AGE).contains(&age) {
        Ok(age)
    } else {
        Err("from 10ms to 1h, please".to_owned())
    }
}

const MOST_BUSY_POLL: Duration = Duration::from_millis(10);
const MIN_AGE: Duration = Duration::from_millis(10);
const MAX_AGE: Duration = Duration::from_secs(3600);
