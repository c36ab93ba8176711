//! What an operator is told about the files of a shadow: what is wrong, and what to do.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use super::open::OpenError;
use crate::shadow::ShadowError;

/// Why a shadow cannot be used. Says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ShadowFilesError {
    /// A file without a map.
    #[error("{0} exists and is no shadow (there is no {0}.map): name a path that does not exist")]
    NoShadow(PathBuf),
    /// A freeze wants to make them.
    #[error(
        "{0} or {0}.map exists: it may belong to another export; name another path, or restart \
         the export to see what it is"
    )]
    Exists(PathBuf),
    /// The folder of the path.
    #[error("{0}: no such folder; make it, or name a path in one that exists")]
    NoFolder(PathBuf),
    /// The folder of the path.
    #[error("{0}: no files can be made in this folder; change its permissions, or name another")]
    FolderNotWritable(PathBuf),
    /// By its header.
    #[error(
        "{path} is the shadow of {of}, not of {image}: serve that image under that path, or name \
         another shadow"
    )]
    OtherImage {
        /// Of the shadow.
        path: PathBuf,
        /// The image that it belongs to.
        of: PathBuf,
        /// The image that is to be served.
        image: PathBuf,
    },
    /// Of the same file, other sectors.
    #[error(
        "{path} is the shadow of {sectors} sectors of {image} from {offset_sectors} on: serve \
         these (--offset, --length) until it is merged"
    )]
    OtherRange {
        /// Of the shadow.
        path: PathBuf,
        /// Of the image.
        image: PathBuf,
        /// Where the frozen export starts.
        offset_sectors: u64,
        /// How long it is.
        sectors: u64,
    },
    /// The image says so.
    #[error(
        "{image} is frozen, and what was written since is in the shadow {shadow}: give it with \
         --shadow, or give these writes up with: setfattr -x user.aoede.shadow {image}"
    )]
    Needed {
        /// As it was given.
        image: PathBuf,
        /// As it was when it was last used.
        shadow: PathBuf,
    },
    /// Its first sector.
    #[error(
        "{0}: the header is damaged, so the writes in the shadow cannot be told from one another; \
         repair it, or move both files away to go on without these writes"
    )]
    Header(PathBuf),
    /// Of a later program.
    #[error("{path} has format {version}, which this version does not know; use a newer one")]
    Version {
        /// Of the map.
        path: PathBuf,
        /// As it says.
        version: u32,
    },
    /// In the middle.
    #[error(
        "{path}: record {unit} is damaged and others follow, or it is of blocks that the disk does \
         not have, so writes would be lost; restore the file, or move both files away to go on \
         without the writes since the freeze"
    )]
    Damaged {
        /// Of the map.
        path: PathBuf,
        /// Which unit of 512 bytes.
        unit: u64,
    },
    /// The map says that it is needed.
    #[error(
        "{0} is missing, and {0}.map says that it is needed; restore it, or move the map away to \
         go on without the writes since the freeze"
    )]
    DataMissing(PathBuf),
    /// To read the map.
    #[error(transparent)]
    Memory(ShadowError),
    /// One of the two, as a file.
    #[error(transparent)]
    Open(OpenError),
    /// Anything else.
    #[error("{path}: {doing} failed")]
    Io {
        /// Of the file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
